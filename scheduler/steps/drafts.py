"""Which requests draft in a step, and how far."""

from collections.abc import Callable
from functools import lru_cache, partial
from weakref import WeakKeyDictionary

import torch

from cdlm.model.row import LEAD, Draft
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.batch import Batch, StepResult
from cdlm.scheduler.steps.draft_rows import choose_rows, tokens_per_forward
from cdlm.scheduler.steps.draft_times import SIZES, RowChoice

# Up to so many rows, oneDNN's bfloat16 products round each row as if it were alone (docs/engine.md).
_MOST_ROWS_ON_CPU = 32
_MOST_ROWS = 128
# A request drafts if it gets as many rows: its last token, a candidate, and a masked row behind each.
_LEAST_ROWS = 4
# What is assumed of drafts before any was verified, and how many verifications that counts for.
_FIRST_AGREEMENT, _FIRST_WEIGHT = 0.6, 20.0
_LEAST_SHARE = 0.1
_MEMORY = 500.0
# The same for the drafts of one request.
_OWN_WEIGHT, _OWN_MEMORY = 8.0, 60.0
_STEPS = 20  # Expectations are computed for shares rounded to one in so many.


def most_rows(device: torch.device) -> int:
    """Most rows of a step that drafts; how many of them pay is measured."""
    return _MOST_ROWS_ON_CPU if device.type == "cpu" else _MOST_ROWS


class Agreement:
    """How often the draft at each offset agrees if those before it do, over the last verifications.

    Args:
        shares: what is assumed before any was verified, for each offset.
        weight: how many verifications that counts for.
        memory: verifications after which older ones hardly count.
    """

    def __init__(self, shares: list[float], weight: float, memory: float) -> None:
        self._asked = [weight] * len(shares)
        self._agreed = [weight * share for share in shares]
        self._kept = 1 - 1 / memory

    def count(self, candidates: int, accepted: int) -> None:
        """Counts a verification: the first ``accepted`` of the candidates agreed, and the next one did not."""
        for offset in range(min(candidates, accepted + 1)):
            self._asked[offset] = self._kept * self._asked[offset] + 1
            self._agreed[offset] = self._kept * self._agreed[offset] + (offset < accepted)

    def shares(self) -> list[float]:
        """The share of drafts that agree, for each offset; never so low that no draft would be tried any more."""
        return [max(_LEAST_SHARE, agreed / asked) for agreed, asked in zip(self._agreed, self._asked, strict=True)]


class DraftPlanner:
    """Plans verified drafts: candidates to verify, and masked rows behind the tokens that may turn out to be the last.

    A forward computes some rows in the time of one, since it waits for the weights. How many rows each request of a
    step has is measured (``RowChoice``), unless it is given. Each request takes the rows that add the most tokens to
    its answer. With the shares s of drafts that agree and Q(k) = s(1) ... s(k):

    - candidate k adds Q(k) tokens to this step;
    - the j-th masked row behind candidate i adds P(i) Q(j) tokens to the next step, where P(i), the probability that i
      is the last candidate to agree, is Q(i) (1 - s(i + 1)), or Q(i) for the last one.

    Keys of masked rows take slots behind the request's last token; without free pages for them a request drafts less.

    Args:
        window: most candidates, and most masked rows behind a token.
        rows: most rows of all requests in a step that drafts.
        cache: allocates the pages.
        in_place: whether masked rows draft in place, so that every group has more rows in front.
        choice: of rows; without it the requests share all of ``rows``.
    """

    def __init__(
        self, window: int, rows: int, cache: KVCache, *, in_place: bool = False, choice: RowChoice | None = None
    ) -> None:
        self.window, self.rows, self.in_place, self._cache, self._choice = window, rows, in_place, cache, choice
        self._lead = LEAD if in_place else 0
        self.agreement = Agreement([_FIRST_AGREEMENT] * window, _FIRST_WEIGHT, _MEMORY)
        self._agreements: WeakKeyDictionary[Sequence, Agreement] = WeakKeyDictionary()
        self._tokens = lru_cache(4096)(partial(self._expected, window=window, lead=self._lead))

    def plan(self, sequences: list[Sequence]) -> dict[Sequence, Draft]:
        """What each request of a step verifies and drafts; allocates pages for it, as far as they are free."""
        able = [sequence for sequence in sequences if drafts_for(sequence)]
        rows = self._rows(len(sequences), able) if able else 1
        if rows < self._least:
            return {}
        drafts: dict[Sequence, Draft] = {}
        for sequence in able:
            shares = self._agreement(sequence).shares()
            choose = partial(choose_rows, shares, window=self.window, rows=rows - 1, lead=self._lead)
            drafts[sequence] = self._draft(sequence, choose)
        return {sequence: draft for sequence, draft in drafts.items() if draft.tokens}

    def count(self, sequence: Sequence, draft: Draft, accepted: int) -> None:
        """Counts a verification of a request's draft, of which ``accepted`` candidates agreed."""
        for agreement in (self.agreement, self._agreement(sequence)):
            agreement.count(len(draft.candidates), accepted)

    def took(self, batch: Batch, result: StepResult) -> None:
        """Counts the time of a step, if all its work was decoding."""
        other = batch.staged or batch.admitted or batch.faults or batch.recomputed or result.score_rows or result.halved
        if self._choice is not None:
            self._choice.took(None if other else result.seconds)

    def most(self, sequence: Sequence) -> int:
        """Most tokens that a draft adds to a request's forward."""
        most = self.rows if self._choice is None else min(self.rows, SIZES[-1])
        return most if drafts_for(sequence) else 0

    @property
    def measures(self) -> bool:
        """Whether the rows of a request are found by measuring."""
        return self._choice is not None

    @property
    def _least(self) -> int:
        return _LEAST_ROWS + 2 * self._lead

    def _rows(self, requests: int, able: list[Sequence]) -> int:
        """The rows of each request in a step."""
        most = self.rows // requests
        if self._choice is None:
            return most
        sizes = [size for size in SIZES if size == 1 or self._least <= size <= most]
        each = [self._agreement(sequence).shares() for sequence in able]
        shares = tuple(round(sum(share) / len(able) * _STEPS) for share in zip(*each, strict=True))
        return self._choice.choose(requests, sizes, lambda size: self._tokens(shares, size))

    @staticmethod
    def _expected(shares: tuple[int, ...], rows: int, window: int, lead: int) -> float:
        return tokens_per_forward([share / _STEPS for share in shares], window, rows, lead)

    def _agreement(self, sequence: Sequence) -> Agreement:
        """The agreement of a request's own drafts, which begins as that of all."""
        found = self._agreements.get(sequence)
        if found is None:
            found = self._agreements[sequence] = Agreement(self.agreement.shares(), _OWN_WEIGHT, _OWN_MEMORY)
        return found

    def _draft(self, sequence: Sequence, choose: Callable[[int], list[int]]) -> Draft:
        # Nothing is drafted behind the end of the answer: the last known token predicts one of its ``wanted`` tokens.
        most = sequence.wanted - 1
        chosen = choose(min(len(sequence.drafted), self.window, most))
        behind = [min(length, max(0, most - 1 - place)) for place, length in enumerate(chosen)]
        lead = self._lead
        room = self._room(sequence, len(chosen) - 1 + sum(length + lead for length in behind if length))
        candidates = sequence.drafted[: min(len(chosen) - 1, room)]
        room -= len(candidates)
        kept: list[int] = []
        for length in behind[: len(candidates) + 1]:
            kept.append(max(0, min(length, room - lead)))
            room -= kept[-1] + lead if kept[-1] else 0
        return Draft(candidates, kept, self.in_place)

    def _room(self, sequence: Sequence, wanted: int) -> int:
        """How many of ``wanted`` slots behind its last token a request has; takes free pages for them."""
        end, cache = sequence.block_start + wanted, self._cache
        if cache.pages_for(end) - len(sequence.pages) <= cache.pool.free:
            cache.allocate(sequence.pages, end)
        return min(wanted, len(sequence.pages) * cache.page_size - sequence.block_start)


def drafts_for(sequence: Sequence) -> bool:
    """Whether a request can draft: more than a token is left, and it has no second pass."""
    return sequence.wanted > 1 and not sequence.guided
