"""What parts have in common: time that is left, timing, and tables."""

import time
from collections.abc import Callable
from typing import Any

import torch


class Budget:
    """Seconds that a run may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether nothing new should begin."""
        return time.monotonic() >= self._end


def milliseconds(function: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """The median time of a call, in milliseconds, after three calls that warm up; on a CPU one call, of which only the
    order of magnitude is meant."""
    if device.type == "cpu":
        started = time.perf_counter()
        function()
        return (time.perf_counter() - started) * 1e3
    times: list[float] = []
    for index in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
        if index >= 3 and sum(times) > 3_000:
            break
    kept = sorted(times[3:] or times)
    return kept[len(kept) // 2]


def table(name: str, found: dict[str, Any]) -> str:
    """A part's rows in columns, and what did not hold."""
    lines = [f"## {name} ({found.get('seconds', 0)} s)"]
    rows = found.get("rows", [])
    if rows:
        names = list(rows[0])
        cells = [[_text(row.get(column)) for column in names] for row in rows]
        widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
        lines += [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [names, *cells]
        ]
    lines += [f"{key}: {_text(value)}" for key, value in found.get("figures", {}).items()]
    lines += [f"DOES NOT HOLD: {each}" for each in found.get("failed", [])]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
