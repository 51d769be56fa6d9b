"""Compiles the grammars of requests before they reach the engine, so that bad ones are refused with a 400."""

import asyncio
import threading
from collections import OrderedDict

import anyio
import anyio.to_thread

from cdlm.model.grammar.compiled import CompiledGrammar, check_size
from cdlm.model.grammar.errors import GrammarError
from cdlm.model.grammar.vocabulary import Vocabulary
from cdlm.scheduler.messages import EngineReady
from cdlm.server.answer_grammar import AnswerGrammar
from cdlm.server.client_grammar import lark_of
from cdlm.server.errors import invalid
from cdlm.server.text import TextCodec

KEPT_VERDICTS = 1024
COMPILE_TIMEOUT_S = 10.0

_SIDE_BY_SIDE = 2


class GrammarChecker:
    """Compiles in threads, two at a time, for the tokenizer of one codec; remembers what it found."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, str], str | GrammarError] = OrderedDict()
        self._places = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._vocabulary: Vocabulary | None = None
        self._building = threading.Lock()

    async def check(self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady) -> str:
        """The text for the engine; raises ``ApiError`` 400 if the grammar, or a part of it, cannot be compiled.

        The error names the field of the first source that is not possible by itself, else that of the grammar.
        """
        for part in grammar.parts:
            await self.check(part, codec, ready)
        key = grammar.language, grammar.text
        if key not in self._verdicts:
            async with self._places:
                self._verdicts[key] = await self._judge(grammar, codec, ready)
            if len(self._verdicts) > KEPT_VERDICTS:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(key)
        verdict = self._verdicts[key]
        if isinstance(verdict, GrammarError):
            with anyio.move_on_after(COMPILE_TIMEOUT_S):  # There may be many, each nearly that slow.
                for source in grammar.sources:
                    await self.check(source, codec, ready)
            raise invalid(f"{grammar.param}: {verdict}", grammar.param)
        return verdict

    async def _judge(self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady) -> str | GrammarError:
        def compile_it() -> str:
            with self._building:
                if self._vocabulary is None:
                    self._vocabulary = codec.vocabulary(ready.vocab_size)
            check_size(grammar.text)
            text = lark_of(grammar.text) if grammar.language == "client" else grammar.text
            CompiledGrammar(text, self._vocabulary, ready.max_model_len)
            return text

        try:
            with anyio.fail_after(COMPILE_TIMEOUT_S):
                return await anyio.to_thread.run_sync(compile_it, abandon_on_cancel=True)
        except GrammarError as error:
            return error
        except TimeoutError:
            return GrammarError(f"it takes more than {COMPILE_TIMEOUT_S:g} seconds to compile")
