"""How many rows pay in a step that drafts, by the time that steps took."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

logger = logging.getLogger(__name__)

# Rows of one request's forward that are tried; one row does not draft.
SIZES = (1, 4, 6, 8, 12, 16, 24, 32)
_ENOUGH, _KEPT = 3, 7  # Times of a size before it is judged, and how many of the last ones count.
_STALE = 400  # Steps after which a size that was not taken is measured again.
# Steps without drafts after which some draft nevertheless, since only drafts show how many would agree: twice as many
# after each time that it did not pay, up to a limit.
_PLAIN, _MOST_PLAIN, _LOOKS = 60, 960, 6


class RowChoice:
    """Chooses the rows of each request's forward that write most tokens per second.

    The time of a step is measured for each number of requests and of rows; the tokens of a forward follow from how
    often drafts agree. A size is measured if it would be the best were it as fast as the slowest smaller one: more rows
    do not make a step faster.
    """

    def __init__(self) -> None:
        self._times: dict[tuple[int, int], deque[float]] = {}
        self._taken: dict[tuple[int, int], int] = {}  # In which step a size was taken last.
        self._step = 0
        self._plain = self._looks = 0  # Steps without drafts in a row, and steps left that draft nevertheless.
        self._patience = _PLAIN
        self._said: set[int] = set()  # The numbers of requests whose rows were logged.
        self._last = (0, 0)
        self._steady = False  # Whether the last step had as many requests and rows as the one before.

    def choose(self, requests: int, sizes: Sequence[int], tokens: Callable[[int], float]) -> int:
        """The rows of each request in the next step.

        Args:
            requests: of the step.
            sizes: rows to choose from, rising from 1.
            tokens: the expected tokens per forward of a request, of a number of rows.
        """
        self._step += 1
        best, drafting = self._best(requests, sizes, tokens)
        if best > 1:
            self._plain = self._looks = 0
            self._patience = _PLAIN
        elif drafting > 1:
            self._plain += 1
            if self._plain > self._patience:
                self._plain, self._looks = 0, _LOOKS
                self._patience = min(2 * self._patience, _MOST_PLAIN)
            if self._looks:
                self._looks -= 1
                best = drafting
        key = requests, best
        self._steady, self._last = key == self._last, key
        self._taken[key] = self._step
        return best

    def took(self, seconds: float | None) -> None:
        """Counts the time of the step that was chosen last; ``None`` if it had other work too.

        The first of several steps with these rows does not count: it has fewer drafts at hand.
        """
        if self._steady and seconds is not None:
            self._times.setdefault(self._last, deque(maxlen=_KEPT)).append(seconds)
        self._steady = False  # A step for which nothing is chosen follows, perhaps.

    def _best(self, requests: int, sizes: Sequence[int], tokens: Callable[[int], float]) -> tuple[int, int]:
        """The size to take, and the best of those that draft; 1 if there is none."""
        slowest = best_rate = drafting_rate = 0.0
        best, drafting = sizes[0], sizes[min(1, len(sizes) - 1)]
        for size in sizes if len(sizes) > 1 else ():
            key = requests, size
            times = self._times.get(key, ())
            old = self._step - self._taken.get(key, 0) > _STALE
            if len(times) < _ENOUGH or old:
                if not slowest or tokens(size) / slowest > best_rate:
                    if old:
                        self._times.pop(key, None)
                    return size, size
                continue
            slowest = max(slowest, median(times))
            rate = tokens(size) / slowest
            if rate > best_rate:
                best, best_rate = size, rate
            if size > 1 and rate > drafting_rate:
                drafting, drafting_rate = size, rate
        if len(sizes) > 1 and requests not in self._said:
            self._said.add(requests)
            logger.info(
                "requests at a time: %d; rows of each that write most tokens per second: %d%s",
                requests,
                best,
                " (nothing is drafted)" if best == 1 else "",
            )
        return best, drafting
