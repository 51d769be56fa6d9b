"""Chooses the requests of each step: admission, page allocation, preemption."""

from collections import deque
from collections.abc import Iterator
from functools import partial

from cdlm.model.config import Manifest
from cdlm.model.row import RowResult
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.kv.keys import Key
from cdlm.scheduler.messages import BlockOutput
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.batch import Batch, StepResult
from cdlm.scheduler.steps.drafts import DraftPlanner
from cdlm.scheduler.steps.faults import Fault, attempt
from cdlm.scheduler.steps.outputs import joined, step_output
from cdlm.scheduler.steps.row_steps import RowSteps
from cdlm.scheduler.waiting.queue import FairQueue

_LOOKS = 64
"""Most waiting requests that a step considers; the next step continues with the others."""


class Scheduler:
    """Continuous batching, step by step.

    Requests join and leave at every step. Running requests come first, oldest first; waiting requests join, fairly
    between clients, while there are tokens, rows and pages. If pages run out, the newest running request is preempted:
    it loses its pages and its unfinished block, and returns to the head of the queue.

    A request with more than ``max_prefill_tokens`` known tokens to compute is **long** and is **staged** first: its
    prefill advances in pieces beside each step. One request is staged at a time. Other long requests wait without row
    and pages, while shorter ones overtake them; they are admitted in turn.

    The time of a step depends on the number of running requests, not of waiting ones.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: KVCache,
        rows: RowSteps,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_prefill_tokens: int,
        drafts: DraftPlanner | None = None,
    ) -> None:
        self.manifest = manifest
        self.cache = cache
        self.rows = rows
        self.drafts = drafts
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self.waiting: FairQueue[Sequence] = FairQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._parked: dict[Key, deque[Sequence]] = {}  # Set aside until another request has computed their prefix.
        self._blocked: tuple[Sequence, int, int] | None = None  # Got no pages, and the state then.
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))
        self._batch = Batch()  # Of the step that is being scheduled.

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, sequence: Sequence) -> None:
        """Queues a new request."""
        self.waiting.append(sequence)
        self.cache.match(sequence)  # Hashes the prompt now, to keep steps short.
        if sequence.compiling is not None:
            self.waiting.set_aside(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Removes a request in any state and frees its row and pages."""
        if sequence.row is not None:
            self.running.remove(sequence)
            self._vacate(sequence)
        elif sequence in self.waiting:  # False if its admission raised.
            self.waiting.remove(sequence)

    def schedule(self, reserved: int = 0) -> Batch:
        """Schedules the next step; keeps ``reserved`` tokens of its budget for other work."""
        self._batch = batch = Batch()
        preempted = self._secure_pages()
        budget = self.max_num_batched_tokens - reserved
        if self.staged is not None:
            budget -= self.max_prefill_tokens
        chosen: list[Sequence] = []
        left_out: list[Sequence] = []
        for running in self.running:
            if self._long(running, running.computed):
                left_out.append(running)
                continue
            cost = self._cost(running, running.computed)
            (chosen if cost <= budget else left_out).append(running)
            budget -= cost if cost <= budget else 0
        # Requests that did not fit come first in the next step.
        self.running = left_out + chosen
        rows = chosen if preempted else chosen + self._join(budget)
        ended = {sequence for sequence, _ in batch.faults}
        batch.rows = [sequence for sequence in rows if sequence not in ended]
        if self.drafts is not None:
            batch.drafts = self.drafts.plan(batch.rows)
        batch.staged = self.staged
        # Free pages are reserved for a preempted request that waits for them.
        batch.resuming = self.waiting.resuming
        batch.recomputed = sum(sequence.recompute for sequence in batch.rows)
        return batch

    def update(self, batch: Batch, result: StepResult) -> list[BlockOutput]:
        """Updates requests with a step's result; returns finished blocks, partial outputs, and errors."""
        outputs = batch.ended + [self.fail(sequence, fault.reason) for sequence, fault in batch.faults]
        if self.drafts is not None:
            self.drafts.took(batch, result)
        for sequence, done in result.rows:
            booked: BlockOutput | Fault | None
            if isinstance(done, Fault):
                booked = done
            else:
                work, row_result = done
                booked = attempt("booking a step", partial(self._book, sequence, row_result))
                if self.drafts is not None and work.draft is not None:
                    self.drafts.count(sequence, work.draft, len(row_result.following))
            if isinstance(booked, Fault):
                outputs.append(self.fail(sequence, booked.reason))
            elif booked is not None:
                outputs.append(booked)
        if batch.staged is not None and isinstance(result.staged, Fault):
            outputs.append(self.fail(batch.staged, result.staged.reason))
        return outputs + result.scored

    def fail(self, sequence: Sequence, reason: str) -> BlockOutput:
        """Ends a request in any state with finish reason ``error``."""
        self.rows.clear(sequence)
        self.remove(sequence)
        name = sequence.request.request_id
        return BlockOutput(request_id=name, token_ids=[], finish_reason="error", error=reason)

    @property
    def staged(self) -> Sequence | None:
        """The running request that is prefilled in pieces beside the step, if any."""
        return next((sequence for sequence in self.running if self._long(sequence, sequence.computed)), None)

    def _join(self, budget: int) -> list[Sequence]:
        """Admits requests in turn; returns those that take part in this step (a long one is staged first)."""
        self._put_back()
        joining: list[Sequence] = []
        place_free = self.staged is None
        for _ in range(_LOOKS):
            sequence = self.waiting.first(long=place_free) if self._free_rows else None
            if sequence is None:
                break
            key = self.cache.awaits(sequence)
            if key is not None:
                self.waiting.set_aside(sequence)
                self._parked.setdefault(key, deque()).append(sequence)
                continue
            found = self.cache.match(sequence)
            long = self._long(sequence, found)
            if long and not place_free:
                self.waiting.mark_long(sequence)
                continue
            cost = 0 if long else self._cost(sequence, found)
            claimed = cost <= budget and attempt("admission", partial(self._claim, sequence, found))
            if isinstance(claimed, Fault):
                self._return_pages(sequence)
                self.waiting.remove(sequence)
                self._batch.faults.append((sequence, claimed))
                continue
            if not claimed:
                break
            self.waiting.take(sequence, long=place_free)
            self._admit(sequence)
            budget -= cost
            if long:
                place_free = False
            else:
                joining.append(sequence)
        return joining

    def _put_back(self) -> None:
        """Returns requests to the queue whose prefix is now cached, or will not be."""
        looks = _LOOKS
        for key in [key for key in self._parked if not self.cache.comes(key)]:
            parked = self._parked[key]
            while parked and looks:
                looks -= 1
                sequence = parked.popleft()
                if sequence in self.waiting:
                    self.waiting.put_back(sequence)
            if not parked:
                del self._parked[key]

    def _long(self, sequence: Sequence, computed: int) -> bool:
        if sequence.guided:
            return False  # Both passes of a guided request must run in one step.
        # The commit of a finished block is part of the next block's first step.
        least = max(self.max_prefill_tokens, self.manifest.block_length)
        return sequence.block_start - computed > least

    def _claim(self, sequence: Sequence, found: int) -> bool:
        """Allocates pages for a waiting sequence with ``found`` cached tokens; false, and no pages, if there are too
        few.
        """
        if self._blocked == (sequence, found, self.cache.pool.releases):
            return False
        copies = self.cache.attach(sequence)
        if copies is not None and self._grow(sequence):
            self._batch.copies += [(sequence, copy) for copy in copies]
            return True
        self._return_pages(sequence)
        self._blocked = sequence, found, self.cache.pool.releases
        return False

    def _secure_pages(self) -> bool:
        """Allocates pages for each running block, oldest request first; returns whether it preempted a request."""
        preempted = False
        for sequence in sorted(self.running, key=lambda sequence: sequence.arrival):
            while sequence.row is not None:
                grown = attempt("growing a page table", partial(self._grow, sequence))
                if isinstance(grown, Fault):
                    self._batch.faults.append((sequence, grown))
                if grown:
                    break
                self._preempt(max(self.running, key=lambda other: other.arrival))
                preempted = True
        return preempted

    def _cost(self, sequence: Sequence, computed: int) -> int:
        once = sequence.block_start - computed + self.manifest.block_length
        return once * len(sequence.tables) + (self.drafts.most(sequence) if self.drafts is not None else 0)

    def _grow(self, sequence: Sequence) -> bool:
        end = sequence.block_start + self.manifest.block_length
        return all(self.cache.allocate(table, end) for table in sequence.tables)

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self._batch.preemptions += 1
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
            self._batch.admitted.append(sequence)
        self.running.append(sequence)
        self.cache.expect(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self.cache.withdraw(sequence)
        self.rows.leave(sequence)
        self._return_pages(sequence)
        self._free_rows.append(sequence.row)
        sequence.row = None
        sequence.row_open = sequence.block_open = False
        sequence.drafted = []

    def _book(self, sequence: Sequence, result: RowResult) -> BlockOutput | None:
        """Updates a request with its row's result; returns its finished blocks or partial output, if any."""
        sequence.forwards += 1
        output = self._book_block(sequence, result)
        for following in result.following:
            if output is None or output.finish_reason is not None:
                return output
            output = joined(output, self._book_block(sequence, following))
        sequence.drafted = result.drafted if sequence.row is not None else []
        return output

    def _book_block(self, sequence: Sequence, result: RowResult) -> BlockOutput | None:
        sequence.computed, sequence.fresh = sequence.block_start, False
        sequence.recompute = 0
        self.cache.store(sequence, self.rows.border(sequence) if self.cache.keeps_border(sequence) else None)
        output = step_output(sequence, result, self.manifest)
        if output is None or output.partial:
            return output
        self.waiting.charge(sequence.request.client, answer_tokens=len(output.token_ids))
        sequence.sent = 0
        if output.finish_reason is not None:
            self.remove(sequence)
        else:
            sequence.token_ids += result.tokens[len(sequence.given) :]
            sequence.block_start += self.manifest.block_length
            sequence.block_open = False
            sequence.forwards = 0
        return output

    def _return_pages(self, sequence: Sequence) -> None:
        for table in sequence.tables:
            self.cache.pool.release(table)
        sequence.computed = sequence.stored = 0
        sequence.border = sequence.staged = None
        sequence.fresh = False
