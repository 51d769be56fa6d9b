"""Grammars of requests, compiled beside the steps and kept for those that ask for the same."""

import queue
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.sequence import Sequence

KEPT_GRAMMARS = 64

# A step that has nothing to do but to wait for a grammar comes back so soon, to see what else has arrived.
_WAIT_S = 0.02

# Requests that are handed their grammars in one step, at most.
_HANDED = 64


class GrammarCompiler:
    """Compiles for the tokenizer in ``directory`` and a model that scores ``vocab_size`` tokens.

    Nothing is loaded before the first grammar comes.
    """

    def __init__(self, directory: Path, vocab_size: int, max_tokens: int) -> None:
        self._directory, self._vocab_size, self._max_tokens = directory, vocab_size, max_tokens
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._kept: OrderedDict[str, Future[CompiledGrammar]] = OrderedDict()
        self._vocabulary: Vocabulary | None = None
        self._started = 0  # Requests whose grammar is not handed out yet.
        self._done: queue.SimpleQueue[Sequence] = queue.SimpleQueue()

    def start(self, sequence: Sequence, text: str) -> None:
        """Begins to compile what a request must follow; ``finished`` yields the request when that has ended."""
        compiled, limit = self.compile(text), sequence.request.max_tokens
        if not (compiled.done() and compiled.exception() is None and compiled.result().knows(limit)):
            compiled = self._executor.submit(_with_ending, compiled, limit)  # Behind the compiling, which it awaits.
        sequence.compiling = compiled
        self._started += 1
        sequence.compiling.add_done_callback(lambda _: self._done.put(sequence))

    def finished(self, *, wait: bool) -> Iterator[Sequence]:
        """Some of the requests whose grammar has been compiled, or was found wrong, since they were last asked for.

        With ``wait`` a moment is waited for the first of them, if any is to come.
        """
        for number in range(min(_HANDED, self._started)):
            try:
                sequence = self._done.get(timeout=_WAIT_S if wait and not number else 0)
            except queue.Empty:
                return
            self._started -= 1
            yield sequence

    def compile(self, text: str) -> Future[CompiledGrammar]:
        """The compiled grammar, at once or later; its exception says what is wrong with it."""
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._executor.submit(self._compile, text)
            if len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return found

    def _compile(self, text: str) -> CompiledGrammar:
        # The only thread of the executor, so the vocabulary is built once.
        if self._vocabulary is None:
            backend = load_tokenizer(self._directory).backend_tokenizer
            self._vocabulary = Vocabulary(backend, self._vocab_size)
        return CompiledGrammar(text, self._vocabulary, self._max_tokens)


def _with_ending(compiled: Future[CompiledGrammar], limit: int) -> CompiledGrammar:
    """The grammar, once it knows how to end within ``limit`` tokens, which no step has to wait for then."""
    grammar = compiled.result()
    grammar.ending(limit)
    return grammar
