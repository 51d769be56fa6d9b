"""Shows the progress of long reads and downloads: a bar on a terminal, log lines elsewhere."""

import logging
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Shorter work shows no bar.
BAR_AFTER_S = 1.0
LINE_EVERY_S = 5.0


class Progress:
    """A context that counts bytes.

    Args:
        what: the work's name.
        total: how many bytes there are.
        done: how many were done before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.done = done
        self._what, self._total = what, total
        self._unit, self._size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
        self._said = time.monotonic()
        # ``disable=None`` shows the bar on a terminal only.
        self._bar = tqdm(
            total=total, initial=done, desc=what, unit="B", unit_scale=True, leave=False, disable=None,
            delay=BAR_AFTER_S,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, size: int, place: str) -> None:
        """Counts ``size`` bytes, of ``place``."""
        self.done += size
        self._bar.update(size)
        if self._bar.disable and time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            done, total = self.done / self._size, self._total / self._size
            logger.info("%s: %.2f of %.2f %s, %s", self._what, done, total, self._unit, place)
