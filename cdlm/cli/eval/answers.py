"""Stores the answers of the comparison table, so that an interrupted run continues."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdlm.cli.eval.rows import Answer


class AnswerStore:
    """One JSON file per task and row, with everything that determines its answers; outdated files are not used.

    Args:
        directory: directory of the files; created at the first write.
        common: what determines the answers of all rows, as JSON: problems, canvas, device, version.
    """

    def __init__(self, directory: Path, common: dict[str, Any]) -> None:
        self.directory, self.common = directory, common
        self._digests: dict[Path, str] = {}

    def load(self, task: str, row: str, decoding: dict[str, Any], checkpoint: Path) -> list[Answer] | None:
        """The stored answers of a row, in the order of its problems; ``None`` if missing or outdated."""
        try:
            kept = json.loads(self._file(task, row).read_text())
            if kept["of"] != self._of(decoding, checkpoint):
                return None
            return [Answer(**answer) for answer in kept["answers"]]
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return None

    def save(self, task: str, row: str, decoding: dict[str, Any], checkpoint: Path, answers: list[Answer]) -> None:
        """Writes the answers of a row atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self._file(task, row)
        content = {"of": self._of(decoding, checkpoint), "answers": [asdict(answer) for answer in answers]}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(content))
        partial.replace(file)

    def _file(self, task: str, row: str) -> Path:
        return self.directory / f"{task}-{row}.json"

    def _of(self, decoding: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
        return {**self.common, **decoding, "checkpoint": self._digest(checkpoint)}

    def _digest(self, checkpoint: Path) -> str:
        """SHA-256 of the checkpoint's file names and contents."""
        if checkpoint not in self._digests:
            digest = hashlib.sha256()
            for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
            self._digests[checkpoint] = digest.hexdigest()
        return self._digests[checkpoint]
