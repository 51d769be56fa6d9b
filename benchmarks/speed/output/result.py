"""The file a run writes as it goes, and from which a killed run continues."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.speed.pace import Pace
from benchmarks.speed.settings import Settings

FILE = "result.json"
# What may differ between the runs that fill one result: it chooses measurements, or is part of their keys.
_CHOICES = ("batches", "prompts")
# What ratios of one result must share of the machine.
_SAME = ("cpu", "gpu", "cores", "torch_threads", "versions")


class ResultError(ValueError):
    """The result cannot be continued; the message says why."""


class Result:
    """``result.json`` in a directory: ``settings``, ``machine``, ``pace``, ``commands``, ``comparisons`` by key.

    Raises:
        ResultError: the directory holds a result that is unreadable, or measured with other settings.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory, self.path = directory, directory / FILE
        wanted = json.loads(json.dumps({key: value for key, value in asdict(settings).items() if key not in _CHOICES}))
        if self.path.exists():
            self.data = read_result(directory)
            if self.data["settings"] != wanted:
                raise ResultError(f"{self.path} was measured with other settings; name another --output")
        else:
            self.data = {"settings": wanted, "machine": {}, "pace": None, "commands": [], "comparisons": {}}

    @property
    def pace(self) -> Pace | None:
        """The pace that all comparisons of this result run at, once it is known."""
        return None if self.data["pace"] is None else Pace(**self.data["pace"])

    def begin(self, command: Sequence[str], date: str, machine: dict[str, Any], pace: Pace) -> None:
        """Notes a run. Raises ``ResultError`` if its pace or machine differs from what was measured before."""
        if self.pace is not None and self.pace.steps_per_block != pace.steps_per_block:
            raise ResultError(f"{self.path} was measured at another pace; name another --output")
        if self.data["machine"] and any(self.data["machine"].get(key) != machine.get(key) for key in _SAME):
            raise ResultError(f"{self.path} was measured on another machine; name another --output")
        if self.pace is None:
            self.data["pace"] = asdict(pace)
        self.data["machine"] = machine
        self.data["commands"].append({"command": " ".join(command), "date": date})
        self.save()

    def finished(self, key: str) -> bool:
        """Whether the comparison was measured; one that was skipped is tried again."""
        return "ratios" in self.data["comparisons"].get(key, {})

    def add(self, key: str, entry: dict[str, Any]) -> None:
        """Writes a comparison at once."""
        self.data["comparisons"][key] = entry
        self.save()

    def save(self) -> None:
        """Replaces the file atomically."""
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(partial, self.path)


def read_result(directory: Path) -> dict[str, Any]:
    """The contents of a directory's ``result.json``. Raises ``ResultError``."""
    try:
        data = json.loads((directory / FILE).read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"{directory / FILE} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ResultError(f"{directory / FILE} is no result")
    return data
