"""A training log: one JSON line every few steps."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from cdlm.training.descent.plots import plot_log

logger = logging.getLogger(__name__)


class StepLog:
    """Appends to ``directory/log.jsonl`` the mean figures of the steps since the last line.

    Entries after ``step`` are dropped: a resumed run repeats those steps.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "log.jsonl"
        self._figures: list[dict[str, float]] = []
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept))

    def add(self, figures: dict[str, float]) -> None:
        """Adds the figures of one step."""
        self._figures.append(figures)

    def write(self, step: int, seconds: float, measured: Mapping[str, float] | None = None) -> None:
        """Writes the means since the last call, and ``measured``."""
        count = len(self._figures)
        means = {name: sum(entry[name] for entry in self._figures) / count for name in self._figures[0]}
        self._figures.clear()
        figures = {name: round(value, 4) for name, value in {**means, **(measured or {})}.items()}
        entry = {"step": step, **figures, "seconds": round(seconds)}
        name = self.path.parent.name
        logger.info("%s %s", name, " ".join(f"{key} {value}" for key, value in entry.items()))
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def draw(self) -> None:
        """Draws the curves into ``loss.png`` beside the log."""
        if self.path.exists():
            plot_log(self.path, self.path.with_name("loss.png"))
