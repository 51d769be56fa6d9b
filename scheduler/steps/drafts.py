"""Which requests draft in a step, and how far."""

import heapq
import logging
from collections.abc import Callable
from functools import lru_cache, partial

import torch

from cdlm.model.row import LEAD, Draft
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.kv.cache import KVCache
from cdlm.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)

_CHEAP_ROWS = 32
# A row that adds fewer tokens than this to a request's answer costs more time than it saves, even where rows are cheap.
_LEAST_GAIN = 0.03
# A request drafts if it gets as many rows: its last token, a candidate, and a masked row behind each.
_LEAST_ROWS = 4
# What is assumed of drafts before any was verified, and how many verifications that counts for.
_FIRST_AGREEMENT, _FIRST_WEIGHT = 0.6, 20.0
_LEAST_SHARE = 0.1
_MEMORY = 500.0  # Verifications after which older ones hardly count.


def default_rows(runner: ModelRunner) -> int:
    """The rows that a forward computes in about the time of one (benchmarks/results/2026-11-30-drafts)."""
    if runner.device.type == "cpu" and runner.dtype == torch.float32:
        logger.info("nothing is drafted: in float32 on a CPU each row costs; --draft-rows drafts nevertheless")
        return 0
    return _CHEAP_ROWS


class Agreement:
    """How often the draft at each offset agrees if those before it do, over the last verifications.

    Args:
        window: most drafted tokens.
    """

    def __init__(self, window: int) -> None:
        self._asked = [_FIRST_WEIGHT] * window
        self._agreed = [_FIRST_WEIGHT * _FIRST_AGREEMENT] * window

    def count(self, candidates: int, accepted: int) -> None:
        """Counts a verification: the first ``accepted`` of the candidates agreed, and the next one did not."""
        for offset in range(min(candidates, accepted + 1)):
            kept = 1 - 1 / _MEMORY
            self._asked[offset] = kept * self._asked[offset] + 1
            self._agreed[offset] = kept * self._agreed[offset] + (offset < accepted)

    def shares(self) -> list[float]:
        """The share of drafts that agree, for each offset; never so low that no draft would be tried any more."""
        return [max(_LEAST_SHARE, agreed / asked) for agreed, asked in zip(self._agreed, self._asked, strict=True)]


class DraftPlanner:
    """Plans verified drafts: candidates to verify, and masked rows behind the tokens that may turn out to be the last.

    A forward computes some rows in the time of one, since it waits for the weights. The requests of a step share these
    rows; if they are too many for that, they decode without drafts. Each request takes the rows that add the most
    tokens to its answer. With the shares s of drafts that agree and Q(k) = s(1) ... s(k):

    - candidate k adds Q(k) tokens to this step;
    - the j-th masked row behind candidate i adds P(i) Q(j) tokens to the next step, where P(i), the probability that i
      is the last candidate to agree, is Q(i) (1 - s(i + 1)), or Q(i) for the last one.

    Keys of masked rows take slots behind the request's last token; without free pages for them a request drafts less.

    Args:
        window: most candidates, and most masked rows behind a token.
        rows: most rows of all requests in a step that drafts; 0 drafts nothing.
        cache: allocates the pages.
        in_place: whether masked rows draft in place, so that every group has more rows in front.
    """

    def __init__(self, window: int, rows: int, cache: KVCache, *, in_place: bool = False) -> None:
        self.window, self.rows, self.in_place, self._cache = window, rows, in_place, cache
        self._lead = LEAD if in_place else 0
        self.agreement = Agreement(window)

    def plan(self, sequences: list[Sequence]) -> dict[Sequence, Draft]:
        """What each request of a step verifies and drafts; allocates pages for it, as far as they are free."""
        rows = self.rows // max(1, len(sequences))
        if rows < _LEAST_ROWS + 2 * self._lead:
            return {}
        shares = self.agreement.shares()
        choices = lru_cache(partial(choose_rows, shares, window=self.window, rows=rows - 1, lead=self._lead))
        drafts = {sequence: self._draft(sequence, choices) for sequence in sequences if drafts_for(sequence)}
        return {sequence: draft for sequence, draft in drafts.items() if draft.tokens}

    def most(self, sequence: Sequence) -> int:
        """Most tokens that a draft adds to a request's forward."""
        return self.rows if drafts_for(sequence) else 0

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


def choose_rows(shares: list[float], candidates: int, window: int, rows: int, lead: int = 0) -> list[int]:
    """How many masked rows stand behind the last known token, and behind each candidate that is verified.

    Args:
        shares: of drafts that agree, per offset; see ``DraftPlanner``.
        candidates: drafted tokens that could be verified.
        window: most masked rows behind a token.
        rows: most rows in all, beside that of the last known token.
        lead: rows in front of each group of masked rows.
    """
    reach = [1.0]  # Q(0), Q(1), ...
    for share in shares[:window]:
        reach.append(reach[-1] * share)
    useful = sum(share >= _LEAST_GAIN for share in reach[1 : min(candidates, rows) + 1])
    best = max(
        (_behind(reach, shares, count, window, rows - count, lead) for count in range(useful + 1)),
        key=lambda found: found[0],
    )
    return best[1]


def _behind(
    reach: list[float], shares: list[float], candidates: int, window: int, rows: int, lead: int
) -> tuple[float, list[int]]:
    """The gain of a plan that verifies ``candidates``, and its best division of ``rows`` rows into groups."""
    gain, behind = sum(reach[1 : candidates + 1]), [0] * (candidates + 1)
    last = [reach[place] * (1 - shares[place]) for place in range(candidates)] + [reach[candidates]]
    open_places = [(-share * reach[1], place) for place, share in enumerate(last)]
    heapq.heapify(open_places)
    while open_places and -open_places[0][0] >= _LEAST_GAIN:
        value, place = heapq.heappop(open_places)
        cost = 1 if behind[place] else 1 + lead
        if cost > rows:
            continue
        rows -= cost
        gain, behind[place] = gain - value, behind[place] + 1
        if behind[place] < window:
            heapq.heappush(open_places, (-last[place] * reach[behind[place] + 1], place))
    return gain, behind
