"""The log of an adapter's training: one JSON object a line, with the mean figures of the steps since the last one."""

import json
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


class StepLog:
    """Appends to ``path``. Entries behind ``step`` are dropped: a resumed run takes those steps again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._figures: list[dict[str, float]] = []
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            path.write_text("".join(line + "\n" for line in kept))

    def add(self, figures: dict[str, float]) -> None:
        """The figures of one step."""
        self._figures.append(figures)

    def write(self, step: int, seconds: float) -> None:
        """Writes the means since the last call."""
        means = {
            name: round(sum(entry[name] for entry in self._figures) / len(self._figures), 4)
            for name in self._figures[0]
        }
        self._figures.clear()
        entry = {"step": step, **means, "seconds": round(seconds)}
        logger.info("adapter %s", " ".join(f"{key} {value}" for key, value in entry.items()))
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
