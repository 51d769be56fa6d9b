"""Grammars of requests, compiled beside the steps and kept for those that ask for the same."""

import concurrent.futures
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from model.grammar.compiled import CompiledGrammar
from model.grammar.vocabulary import Vocabulary
from model.tokenizer import load_tokenizer

KEPT_GRAMMARS = 64

# A step that has nothing to do but to wait for a grammar comes back so soon, to see what else has arrived.
_WAIT_S = 0.02


class GrammarCompiler:
    """Compiles for the tokenizer in ``directory`` and a model that scores ``vocab_size`` tokens.

    Nothing is loaded before the first grammar comes.
    """

    def __init__(self, directory: Path, vocab_size: int, max_tokens: int) -> None:
        self._directory, self._vocab_size, self._max_tokens = directory, vocab_size, max_tokens
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._kept: OrderedDict[str, Future[CompiledGrammar]] = OrderedDict()
        self._vocabulary: Vocabulary | None = None

    def compile(self, text: str) -> Future[CompiledGrammar]:
        """The compiled grammar, at once or later; its exception says what is wrong with it."""
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._executor.submit(self._compile, text)
            if len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return found

    @staticmethod
    def wait(pending: list[Future[CompiledGrammar]]) -> None:
        """Waits a moment for the first of them."""
        concurrent.futures.wait(pending, _WAIT_S, concurrent.futures.FIRST_COMPLETED)

    def _compile(self, text: str) -> CompiledGrammar:
        # The only thread of the executor, so the vocabulary is built once.
        if self._vocabulary is None:
            backend = load_tokenizer(self._directory).backend_tokenizer
            self._vocabulary = Vocabulary(backend, self._vocab_size)
        return CompiledGrammar(text, self._vocabulary, self._max_tokens)
