"""One scoring request: the log-probability of prompt tokens given those before them (docs/sampling.md).

The prompt is split into blocks from position 0. First, all blocks but the last are computed, as if generated and
committed, except those that the prefix cache has. Then each scored token gets a **state**: its block with this token
and all later ones masked. A state is a segment with its own pages after the shared pages of earlier blocks; a forward
can run any number of states.
"""

import time
from dataclasses import dataclass, field

from cdlm.model.attention.segments import Segment
from cdlm.model.config import Manifest
from cdlm.model.forwards.scoring import ScoreWork
from cdlm.model.row import TokenScore
from cdlm.scheduler.kv.cache import Copy, KVCache
from cdlm.scheduler.messages import BlockOutput, ScoreRequest, TokenLogprob


@dataclass(slots=True)
class ScoringPlan:
    """A step's share of one request.

    Attributes:
        work: the input of the runner.
        positions: positions of the work's targets.
        copies: pages to copy before the forward, (source, target).
        committed: positions below this have exact keys and values after the step.
    """

    work: ScoreWork
    positions: list[int]
    copies: list[Copy]
    committed: int


@dataclass(slots=True, eq=False)
class Scoring:
    """State of a scoring request.

    Attributes:
        pages: page table of the finished blocks.
        scratch: page tables of the states; the first is held from admission, the others for one step.
        committed: positions below this have exact keys and values.
        cached: positions below this came from the prefix cache.
        keys: prefix cache keys of its whole units so far.
        left: positions that still need a state; the next one is last.
        scores: position -> score.
        slot_scores: scores of all candidates, once they are computed.
    """

    request: ScoreRequest
    manifest: Manifest
    cache: KVCache
    arrival: float = field(default_factory=time.monotonic)
    pages: list[int] = field(default_factory=list)
    scratch: list[list[int]] = field(default_factory=list)
    committed: int = 0
    cached: int = 0
    keys: list[bytes] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    scores: dict[int, TokenScore] = field(default_factory=dict)
    slot_scores: list[TokenScore] = field(default_factory=list)
    forwards: int = 0

    def __post_init__(self) -> None:
        if self.request.slots:
            return
        # If there is a border state, a block's first token is predicted from the clean token before it.
        by_commit = self.manifest.block_length if self.manifest.has_border else len(self.ids)
        start = self.request.start
        self.left = [position for position in range(len(self.ids) - 1, start - 1, -1) if position % by_commit]

    @property
    def ids(self) -> list[int]:
        """Token ids of the prompt."""
        return self.request.prompt_ids

    @property
    def finished_blocks(self) -> int:
        """Number of positions in the blocks before those that are computed with masks: the last block, or all blocks
        from the token that predicts the first slot on.
        """
        block, slots = self.manifest.block_length, self.request.slots
        last = slots[0].position - 1 if slots else len(self.ids) - 1
        return last // block * block

    @property
    def _unread(self) -> int:
        """Positions below this are in blocks whose hidden states predict no scored token."""
        if not self.manifest.has_border or self.request.slots:
            return self.finished_blocks
        block = self.manifest.block_length
        return min(self.finished_blocks, (self.request.start - 1) // block * block)

    @property
    def done(self) -> bool:
        """Whether every token has a score."""
        if self.request.slots and not self.slot_scores:
            return False
        return self.committed == self.finished_blocks and not self.left

    @property
    def pages_needed(self) -> int:
        """Fewest pages it can run with: its finished blocks and one state."""
        return self.cache.pages_for(self.finished_blocks) + self.cache.pages_for(self._tail)

    @property
    def _tail(self) -> int:
        """Most positions in a state's own pages: its block, and earlier tokens in the page where the block begins."""
        block, size = self.manifest.block_length, self.cache.page_size
        if self.request.slots:
            return self.finished_blocks % size + self.canvas_tokens
        return max(start % size for start in range(0, len(self.ids), block)) + block

    @property
    def canvas_tokens(self) -> int:
        """Number of positions that are computed with the slots: whole blocks."""
        block = self.manifest.block_length
        return -(-len(self.ids) // block) * block - self.finished_blocks

    def admit(self) -> bool:
        """Allocates the pages it needs; false, and no pages, if there are too few."""
        first: list[int] = []
        self.cached = self.committed = self.cache.attach_text(self, self._unread)
        if self.cache.allocate(self.pages, self.finished_blocks) and self.cache.allocate(first, self._tail):
            self.scratch = [first]
            return True
        self.release()
        return False

    def release(self) -> None:
        """Releases all pages."""
        self.trim(0)
        self.cache.pool.release(self.pages)

    def trim(self, states: int = 1) -> None:
        """Releases the pages of all states after the first ``states``."""
        while len(self.scratch) > states:
            self.cache.pool.release(self.scratch.pop())

    def plan(self, budget: int) -> ScoringPlan | None:
        """Plans its next step within ``budget`` tokens; ``None`` if that is too few."""
        if self.committed < self.finished_blocks:
            return self._plan_commit(budget)
        return self._plan_slots(budget) if self.request.slots else self._plan_states(budget)

    def take(self, plan: ScoringPlan, scores: list[TokenScore]) -> None:
        """Stores the scores of a step."""
        self.forwards += 1
        self.committed = plan.committed
        if self.request.slots:
            self.slot_scores += scores
            return
        self.scores.update(zip(plan.positions, scores, strict=True))
        scored = set(plan.positions)
        self.left = [position for position in self.left if position not in scored]
        self.trim()

    def output(self) -> BlockOutput:
        """The result: one log-probability per scored token.

        Offers the finished blocks to the prefix cache: scores that are finite show that keys and values are.
        """
        scored = [(self.ids[position], score) for position, score in sorted(self.scores.items())]
        if self.request.slots:
            scored = list(zip(self._candidates, self.slot_scores, strict=True))
        entries = [TokenLogprob(token, score.logprob, 0, score.top_ids, score.top_logprobs) for token, score in scored]
        self.cache.store_text(self, self.cached, self.finished_blocks)
        return BlockOutput(
            request_id=self.request.request_id,
            token_ids=[],
            forward_passes=self.forwards,
            cached_tokens=self.cached,
            finish_reason="length",
            logprobs=entries,
        )

    @property
    def _candidates(self) -> list[int]:
        return [token for slot in self.request.slots for token in slot.candidates]

    def _plan_slots(self, budget: int) -> ScoringPlan | None:
        if budget < self.canvas_tokens:
            return None
        block, size, start = self.manifest.block_length, self.cache.page_size, self.finished_blocks
        whole, own = start // size, self.scratch[0]
        table = self.pages[:whole] + own
        copies = [(self.pages[whole], own[0])] if start % size else []
        segments = [Segment(first, block, table) for first in range(start, start + self.canvas_tokens, block)]
        ids = self.ids[start:] + [self.manifest.mask_token_id] * (start + self.canvas_tokens - len(self.ids))
        rows: list[int] = []
        for slot in self.request.slots:
            ids[slot.position - start] = self.manifest.mask_token_id
            before = self.manifest.shift or (self.manifest.has_border and slot.position % block == 0)
            rows += [slot.position - start - int(before)] * len(slot.candidates)
        work = ScoreWork(segments, ids, rows, self._candidates, self.request.logprobs)
        return ScoringPlan(work, [], copies, self.committed)

    def _plan_commit(self, budget: int) -> ScoringPlan | None:
        block = self.manifest.block_length
        end = min(self.finished_blocks, (self.committed + budget) // block * block)
        if end <= self.committed:
            return None
        ids = self.ids[self.committed : end]
        if block == 1 or self.manifest.commit_attention == "causal":
            segments = [Segment(self.committed, len(ids), self.pages, causal=True)]
        else:
            segments = [Segment(start, block, self.pages) for start in range(self.committed, end, block)]
        firsts = range((self.committed // block + 1) * block, end + 1, block) if self.manifest.has_border else []
        positions = [position for position in firsts if position >= self.request.start and not self.request.slots]
        rows = [position - 1 - self.committed for position in positions]
        targets = [self.ids[position] for position in positions]
        return ScoringPlan(ScoreWork(segments, ids, rows, targets, self.request.logprobs), positions, [], end)

    def _plan_states(self, budget: int) -> ScoringPlan | None:
        block, size = self.manifest.block_length, self.cache.page_size
        positions = self.left[: -1 - min(len(self.left), budget // block) : -1]
        while len(self.scratch) < len(positions) and self.cache.pages_for(self._tail) <= self.cache.pool.free:
            self.scratch.append([])
            self.cache.allocate(self.scratch[-1], self._tail)
        positions = positions[: len(self.scratch)]
        if not positions:
            return None
        segments: list[Segment] = []
        ids: list[int] = []
        rows: list[int] = []
        copies: list[Copy] = []
        for position, own in zip(positions, self.scratch, strict=False):
            start = position // block * block
            whole = start // size
            if start % size:
                copies.append((self.pages[whole], own[0]))
            rows.append(len(ids) + position - start - int(self.manifest.shift))
            segments.append(Segment(start, block, self.pages[:whole] + own))
            ids += self.ids[start:position] + [self.manifest.mask_token_id] * (start + block - position)
        targets = [self.ids[position] for position in positions]
        return ScoringPlan(
            ScoreWork(segments, ids, rows, targets, self.request.logprobs), positions, copies, self.committed
        )
