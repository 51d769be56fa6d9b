"""Compiles the grammars of requests before they reach the engine, so that bad ones are refused with a 400."""

import asyncio
import threading
from collections import OrderedDict

import anyio
import anyio.to_thread

from model.grammar.compiled import CompiledGrammar
from model.grammar.errors import GrammarError
from model.grammar.vocabulary import Vocabulary
from scheduler.messages import EngineReady
from server.answer_grammar import AnswerGrammar
from server.errors import invalid
from server.text import TextCodec

KEPT_VERDICTS = 1024
COMPILE_TIMEOUT_S = 10.0

_SIDE_BY_SIDE = 2


class GrammarChecker:
    """Compiles in threads, two at a time, for the tokenizer of one codec; remembers what it found."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[str, str | None] = OrderedDict()
        self._places = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._vocabulary: Vocabulary | None = None
        self._building = threading.Lock()

    async def check(self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady) -> None:
        """Raises ``ApiError`` 400 for a grammar that cannot be compiled, or one of its parts."""
        for part in grammar.parts:
            await self.check(part, codec, ready)
        text = grammar.text
        if text not in self._verdicts:
            async with self._places:
                self._verdicts[text] = await self._judge(text, codec, ready)
            if len(self._verdicts) > KEPT_VERDICTS:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(text)
        wrong = self._verdicts[text]
        if wrong is not None:
            raise invalid(f"{grammar.param}: {wrong}", grammar.param)

    async def _judge(self, text: str, codec: TextCodec, ready: EngineReady) -> str | None:
        def compile_it() -> None:
            with self._building:
                if self._vocabulary is None:
                    self._vocabulary = codec.vocabulary(ready.vocab_size)
            CompiledGrammar(text, self._vocabulary, ready.max_model_len)

        try:
            with anyio.fail_after(COMPILE_TIMEOUT_S):
                await anyio.to_thread.run_sync(compile_it, abandon_on_cancel=True)
        except GrammarError as error:
            return str(error)
        except TimeoutError:
            return f"it takes more than {COMPILE_TIMEOUT_S:g} seconds to compile"
        return None
