"""Compiles the grammars of requests before they reach the engine, so that bad ones are refused with a 400."""

import asyncio
import threading
from collections import OrderedDict
from dataclasses import dataclass

import anyio
import anyio.to_thread

from cdlm.model.decoding.grammar.compiled import CompiledGrammar, check_size
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.scheduler.messages import EngineReady
from cdlm.server.errors import invalid
from cdlm.server.openai.forms.answer_grammar import AnswerGrammar
from cdlm.server.openai.forms.client_grammar import lark_of
from cdlm.server.text import TextCodec

KEPT_VERDICTS = 1024
COMPILE_TIMEOUT_S = 10.0

_SIDE_BY_SIDE = 2


@dataclass(slots=True)
class _Verdict:
    """The result of compiling a grammar: ``text`` for the engine; ``least`` tokens of the shortest answer found, end
    token included.

    ``sought`` says whether an answer with fewer tokens was searched.
    """

    text: str
    least: int
    sought: bool = False


class GrammarChecker:
    """Compiles grammars for one tokenizer, in two threads, and caches the results."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, str], _Verdict | GrammarError] = OrderedDict()
        self._places = asyncio.Semaphore(_SIDE_BY_SIDE)
        self._vocabulary: Vocabulary | None = None
        self._building = threading.Lock()

    async def check(self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady) -> str:
        """Returns the grammar's text for the engine; raises ``ApiError`` 400 if it, or a part of it, cannot be
        compiled.

        The error names the field of the first source that fails by itself, else of the grammar.
        """
        return (await self._verdict(grammar, codec, ready)).text

    async def check_room(
        self,
        grammar: AnswerGrammar | None,
        budget: int,
        limit: str | None,
        prompt: str,
        codec: TextCodec,
        ready: EngineReady,
    ) -> None:
        """Raises ``ApiError`` 400 if no answer of ``budget`` tokens was found, and answers may not be cut.

        The error names the field ``limit`` that sets the budget; if ``limit`` is ``None``, the field ``prompt``.
        """
        if grammar is None or not budget or grammar.may_be_cut:
            return
        verdict = await self._verdict(grammar, codec, ready)
        if budget < verdict.least and not verdict.sought:
            async with self._places:
                found = await self._judge(grammar, codec, ready, budget)
            if isinstance(found, GrammarError):
                raise invalid(f"{grammar.param}: {found}", grammar.param)
            verdict.least, verdict.sought = found.least, True
        if budget < verdict.least:
            few = f"no answer of at most {budget} tokens" if limit else f"with {budget} tokens left, no answer"
            raise invalid(
                f"{limit or prompt}: {few} was found that {grammar.param} allows and that ends; "
                f"the shortest found has {verdict.least}, its end token included",
                limit or prompt,
            )

    async def _verdict(self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady) -> _Verdict:
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
            with anyio.move_on_after(COMPILE_TIMEOUT_S):  # There may be many slow ones.
                for source in grammar.sources:
                    await self.check(source, codec, ready)
            raise invalid(f"{grammar.param}: {verdict}", grammar.param)
        return verdict

    async def _judge(
        self, grammar: AnswerGrammar, codec: TextCodec, ready: EngineReady, budget: int = 1 << 30
    ) -> _Verdict | GrammarError:
        """Compiles a grammar for answers of ``budget`` tokens."""

        def compile_it() -> _Verdict:
            with self._building:
                if self._vocabulary is None:
                    self._vocabulary = codec.vocabulary(ready.vocab_size)
            check_size(grammar.text)
            text = lark_of(grammar.text) if grammar.language == "client" else grammar.text
            compiled = CompiledGrammar(text, self._vocabulary, ready.max_model_len)
            return _Verdict(text, compiled.needed(budget))

        try:
            with anyio.fail_after(COMPILE_TIMEOUT_S):
                return await anyio.to_thread.run_sync(compile_it, abandon_on_cancel=True)
        except GrammarError as error:
            return error
        except TimeoutError:
            return GrammarError(f"it takes more than {COMPILE_TIMEOUT_S:g} seconds to compile")
