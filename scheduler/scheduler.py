"""Which requests take part in the next step: admission, page allocation, preemption."""

from collections.abc import Callable, Iterator
from functools import partial

from model.config import Manifest
from scheduler.fair_queue import FairQueue
from scheduler.faults import Fault, attempt
from scheduler.page_pool import PagePool
from scheduler.prefix_cache import PrefixCache
from scheduler.sequence import Sequence


class Scheduler:
    """Continuous batching by block step.

    Requests join and leave at every step. Running ones come first, oldest first; waiting ones join, fairly between
    clients, while the token budget, the canvas rows and the pages last. When pages run out, the youngest running
    request gives up its pages and its unfinished block, and goes back to the head of the queue.

    A request with more than ``max_prefill_tokens`` known tokens to compute is **staged** first: its forward advances
    in pieces beside each step, one request at a time, oldest first.

    ``release_row`` is told of every row that its request leaves, at its end or when it is preempted.
    """

    def __init__(
        self,
        manifest: Manifest,
        pool: PagePool,
        prefix_cache: PrefixCache,
        release_row: Callable[[int], None],
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_prefill_tokens: int,
    ) -> None:
        self.manifest = manifest
        self.pool = pool
        self.prefix_cache = prefix_cache
        self._release_row = release_row
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self.waiting: FairQueue[Sequence] = FairQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.admitted: list[Sequence] = []  # For the first time, since the list was last emptied.
        self._passed_over: list[Sequence] = []
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))
        self._faults: list[tuple[Sequence, Fault]] = []

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, sequence: Sequence) -> None:
        """Queues a new request."""
        self.waiting.append(sequence)
        if sequence.compiling is not None:
            self.waiting.set_aside(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a request out, wherever it is, and frees what it holds."""
        if sequence.row is not None:
            self.running.remove(sequence)
            self._vacate(sequence)
        elif sequence in self.waiting:  # One whose admission has raised is not.
            self.waiting.remove(sequence)

    def schedule(self, reserved: int = 0) -> list[Sequence]:
        """The requests of the next step, each with a row and with pages up to the end of its block.

        ``reserved`` tokens of the step are kept for other work.
        """
        preempted = self._secure_pages()
        budget = self.max_num_batched_tokens - reserved
        if self.staged is not None:
            budget -= self.max_prefill_tokens
        chosen: list[Sequence] = []
        left_out: list[Sequence] = []
        for running in self.running:
            if self._long(running):
                left_out.append(running)
                continue
            cost = self._cost(running)
            (chosen if cost <= budget else left_out).append(running)
            budget -= cost if cost <= budget else 0
        # Whoever did not fit is first in line for the next step.
        self.running = left_out + chosen
        while self._passed_over:
            sequence = self._passed_over.pop()
            if sequence in self.waiting:
                self.waiting.put_back(sequence)
        while self._free_rows and not preempted:
            candidate = self.waiting.first()
            if candidate is None:
                break
            if self.prefix_cache.awaits(candidate, self.running):
                self.waiting.set_aside(candidate)
                self._passed_over.append(candidate)
                continue
            claimed = attempt("admission", partial(self._claim, candidate, budget))
            if isinstance(claimed, Fault):
                self._return_pages(candidate)
                self.waiting.remove(candidate)
                self._faults.append((candidate, claimed))
                continue
            if not claimed:
                break
            self.waiting.take(candidate)
            self._admit(candidate)
            if not self._long(candidate):
                budget -= self._cost(candidate)
                chosen.append(candidate)
        return chosen

    def take_faults(self) -> list[tuple[Sequence, Fault]]:
        """The requests whose admission or growth has raised since this was last asked; they are to be ended."""
        faults, self._faults = self._faults, []
        return faults

    @property
    def staged(self) -> Sequence | None:
        """The running request whose known tokens are to be advanced by some pieces beside the step."""
        return min(filter(self._long, self.running), key=lambda sequence: sequence.arrival, default=None)

    def _long(self, sequence: Sequence) -> bool:
        if sequence.guided:
            return False  # Its two passes advance together, so it must fit into one step.
        # A finished block is always computed with the next one's first step.
        least = max(self.max_prefill_tokens, self.manifest.block_length)
        return sequence.block_start - sequence.computed > least

    def _claim(self, sequence: Sequence, budget: int) -> bool:
        """Pages for a waiting sequence, cached ones as far as there are; all or nothing."""
        if self.prefix_cache.attach(sequence):
            cost = 0 if self._long(sequence) else self._cost(sequence)
            if cost <= budget and self._grow(sequence):
                return True
        self._return_pages(sequence)
        return False

    def _secure_pages(self) -> bool:
        """Pages for every running block, oldest request first; tells whether a younger one had to go."""
        preempted = False
        for sequence in sorted(self.running, key=lambda sequence: sequence.arrival):
            while sequence.row is not None:
                grown = attempt("growing a page table", partial(self._grow, sequence))
                if isinstance(grown, Fault):
                    self._faults.append((sequence, grown))
                if grown:
                    break
                self._preempt(max(self.running, key=lambda other: other.arrival))
                preempted = True
        return preempted

    def _cost(self, sequence: Sequence) -> int:
        return (sequence.block_start - sequence.computed + self.manifest.block_length) * len(sequence.tables)

    def _grow(self, sequence: Sequence) -> bool:
        end = sequence.block_start + self.manifest.block_length
        return all(self.pool.grow(table, end) for table in sequence.tables)

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        sequence.recompute = sequence.computed
        self.running.remove(sequence)
        self._vacate(sequence)
        self.waiting.appendleft(sequence)

    def _admit(self, sequence: Sequence) -> None:
        sequence.row = self._free_rows.pop()
        if not sequence.started:
            sequence.started = True
            sequence.cached = min(sequence.computed, sequence.prompt_length)
            self.waiting.charge(sequence.request.client, prompt_tokens=sequence.prompt_length)
            self.admitted.append(sequence)
        self.running.append(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self._return_pages(sequence)
        self._release_row(sequence.row)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.row_open = sequence.block_open = False

    def _return_pages(self, sequence: Sequence) -> None:
        for table in sequence.tables:
            self.pool.release(table)
        sequence.computed = sequence.stored = 0
        sequence.border = sequence.staged = None
        sequence.fresh = False
