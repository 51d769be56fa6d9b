"""Reduces the threads of steps while other processes use the cores."""

import time
from collections.abc import Callable
from pathlib import Path

# Time that threads wait for a core, summed over threads, as a share of elapsed time. A step waits for its slowest
# thread: if cores are shared, one thread on a free core is faster than two.
CROWDED = 0.3
WINDOW_S = 0.05
FIRST_HOLD_S, LONGEST_HOLD_S = 1.0, 8.0


def waiting_seconds(tasks: Path = Path("/proc/self/task")) -> float | None:
    """Total seconds that threads of this process waited for a core; ``None`` if the system does not report it."""
    try:
        total = 0
        for thread in tasks.iterdir():
            try:
                total += int((thread / "schedstat").read_text().split()[1])
            except ProcessLookupError:  # The thread has just ended.
                continue
        return total / 1e9
    except (OSError, IndexError, ValueError):
        return None


class Crowding:
    """Halves the threads of steps while other processes use the cores; retries more threads later, with backoff.

    Args:
        clock: returns the time in seconds.
        waited: returns the total seconds that threads have waited for a core, or ``None``.
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
        self._window: tuple[int, float, float] | None = None  # Threads, and both clocks at the window's start.

    def limited(self, wanted: int) -> int:
        """The threads for the next step: ``wanted``, or fewer."""
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
            return  # The number of threads changed, or steps paused.
        if waited - window[2] <= CROWDED * (now - window[1]):
            self._hold = FIRST_HOLD_S / 2
            return
        self._hold = min(2 * self._hold, LONGEST_HOLD_S)
        self._most, self._until, self._window = max(1, threads // 2), now + self._hold, None
