"""How long the threads of this process wait for a core, and how many of them other processes leave room for."""

import time
from collections.abc import Callable
from pathlib import Path

# Of the time that passes, the share that threads wait for a core, summed over threads. Threads of one step wait for the
# slowest of them, so where they share cores with others, one thread on a core of its own is faster than two.
CROWDED = 0.3
WINDOW_S = 0.05
FIRST_HOLD_S, LONGEST_HOLD_S = 1.0, 8.0


def waiting_seconds(tasks: Path = Path("/proc/self/task")) -> float | None:
    """Seconds for which threads of this process were ready to run and had no core; ``None`` where no kernel tells."""
    try:
        total = 0
        for thread in tasks.iterdir():
            try:
                total += int((thread / "schedstat").read_text().split()[1])
            except ProcessLookupError:  # It has just ended.
                continue
        return total / 1e9
    except (OSError, IndexError, ValueError):
        return None


class Crowding:
    """Halves the threads of steps while others need the cores; tries more again later, ever more seldom if in vain.

    Args:
        clock: seconds.
        waited: seconds that threads have waited for a core so far, or ``None``.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[], float | None] = waiting_seconds,
    ) -> None:
        self._clock, self._waited = clock, waited
        self._most = 1 << 30
        self._until = 0.0
        self._hold = FIRST_HOLD_S / 2
        self._window: tuple[int, float, float] | None = None  # Threads, and both clocks at its beginning.

    def limited(self, wanted: int) -> int:
        """The threads of the next step, which is worth ``wanted``."""
        now = self._clock()
        if self._most < wanted and now >= self._until:
            self._most *= 2
            self._until = now + self._hold
        threads = min(wanted, self._most)
        if threads > 1:
            self._watch(threads, now)
        return min(threads, self._most)

    def _watch(self, threads: int, now: float) -> None:
        window = self._window
        if window is not None and window[0] == threads and now - window[1] < WINDOW_S:
            return
        if (waited := self._waited()) is None:
            return
        self._window = (threads, now, waited)
        if window is None or window[0] != threads or now - window[1] > 10 * WINDOW_S:
            return  # Another number of threads, or steps with a pause between them.
        if waited - window[2] <= CROWDED * (now - window[1]):
            self._hold = FIRST_HOLD_S / 2
            return
        self._hold = min(2 * self._hold, LONGEST_HOLD_S)
        self._most, self._until, self._window = max(1, threads // 2), now + self._hold, None
