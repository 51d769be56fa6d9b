"""Compiles the grammars of requests in a thread beside the steps, and caches them."""

import queue
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.scheduler.sequence import Sequence

KEPT_GRAMMARS = 64

# A step without other work waits this long for a grammar, then looks for new requests.
_WAIT_S = 0.02

# Most requests that get their grammars in one step.
_HANDED = 64


class GrammarCompiler:
    """Compiles grammars for the tokenizer in ``directory`` and a model with ``vocab_size`` logits.

    Loads the tokenizer at the first grammar.
    """

    def __init__(self, directory: Path, vocab_size: int, max_tokens: int) -> None:
        self._directory, self._vocab_size, self._max_tokens = directory, vocab_size, max_tokens
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._kept: OrderedDict[str, Future[CompiledGrammar]] = OrderedDict()
        self._vocabulary: Vocabulary | None = None
        self._started = 0  # Requests without their grammar so far.
        self._done: queue.SimpleQueue[Sequence] = queue.SimpleQueue()

    def start(self, sequence: Sequence, text: str) -> None:
        """Starts compiling a request's grammar ``text``; ``finished`` yields the request afterwards."""
        compiled, limit = self.compile(text), sequence.request.max_tokens
        if not (compiled.done() and compiled.exception() is None and compiled.result().knows(limit)):
            compiled = self._executor.submit(_with_ending, compiled, limit)  # It waits for the first.
        sequence.compiling = compiled
        self._started += 1
        sequence.compiling.add_done_callback(lambda _: self._done.put(sequence))

    def finished(self, *, wait: bool) -> Iterator[Sequence]:
        """Yields requests, at most ``_HANDED``, whose grammar has compiled or failed since the last call.

        With ``wait``, waits up to ``_WAIT_S`` for the first, if a grammar is being compiled.
        """
        for number in range(min(_HANDED, self._started)):
            try:
                sequence = self._done.get(timeout=_WAIT_S if wait and not number else 0)
            except queue.Empty:
                return
            self._started -= 1
            yield sequence

    def compile(self, text: str) -> Future[CompiledGrammar]:
        """A future of the compiled grammar; its exception says what is wrong with the grammar."""
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = self._executor.submit(self._compile, text)
            if len(self._kept) > KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(text)
        return found

    def _compile(self, text: str) -> CompiledGrammar:
        # The executor has one thread: no lock is needed.
        if self._vocabulary is None:
            # Imports transformers, a third of what an engine imports, which starts sooner without it.
            from cdlm.model.tokens.tokenizer import load_tokenizer

            backend = load_tokenizer(self._directory).backend_tokenizer
            self._vocabulary = Vocabulary(backend, self._vocab_size)
        return CompiledGrammar(text, self._vocabulary, self._max_tokens)


def _with_ending(compiled: Future[CompiledGrammar], limit: int) -> CompiledGrammar:
    """Finds the grammar's end within ``limit`` tokens here, outside of steps, and returns the grammar."""
    grammar = compiled.result()
    grammar.ending(limit)
    return grammar
