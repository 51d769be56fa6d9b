"""What rows of a request's forward gain: candidates that are verified, and masked rows that draft."""

import heapq

# A row that adds fewer tokens than this to a request's answer costs more time than it saves, even where rows are cheap.
_LEAST_GAIN = 0.03
# Forwards after which the drafts at hand no longer depend on the first forward, and forwards that are averaged then.
_SETTLED, _AVERAGED = 8, 8


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
    last = _last(shares, candidates)
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


def tokens_per_forward(shares: list[float], window: int, rows: int, lead: int = 0) -> float:
    """Tokens that a forward decides in the mean, if each has ``rows`` rows in all, divided by ``choose_rows``.

    The drafts at hand in a forward are those behind the last candidate that agreed in the forward before: a Markov
    chain over their number. Whether a draft agrees is taken to depend on its offset alone.
    """
    plans = [choose_rows(shares, drafts, window, rows - 1, lead) for drafts in range(window + 1)]
    lasts = [_last(shares, len(plan) - 1) for plan in plans]
    held = [1.0] + [0.0] * window  # Probability of each number of drafts at hand.
    total = 0.0
    for forward in range(_SETTLED + _AVERAGED):
        following = [0.0] * (window + 1)
        for weight, plan, last in zip(held, plans, lasts, strict=True):
            for place, share in enumerate(last):
                following[plan[place]] += weight * share
                total += weight * share * (place + 1) if forward >= _SETTLED else 0.0
        held = following
    return total / _AVERAGED


def _last(shares: list[float], candidates: int) -> list[float]:
    """P(i): the probability that candidate i is the last to agree, from none on."""
    found, reached = [], 1.0
    for share in shares[:candidates]:
        found.append(reached * (1 - share))
        reached *= share
    return [*found, reached]
