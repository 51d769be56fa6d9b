"""Throughput against the number of requests in flight, and where the causal model overtakes the student."""

import math
import statistics
from typing import Any

from benchmarks.speed.comparisons.comparison import Cell, Run, warmed
from benchmarks.speed.contenders.load import Round
from benchmarks.speed.contenders.workbench import Workbench


def curve_contenders(bench: Workbench, cell: Cell) -> dict[str, Run]:
    """``student@B`` and ``autoregressive@B`` for every batch size B of the settings."""
    assert cell.prompt is not None
    runs: dict[str, Run] = {}
    for batch in sorted(bench.settings.curve):
        load = bench.student_pace(batch, cell.prompt)
        runs[f"student@{batch}"] = warmed(bench.offline.run, load)
        runs[f"autoregressive@{batch}"] = warmed(bench.autoregressive.run, load)
    return runs


def curve_summary(rounds: list[Round]) -> dict[str, Any]:
    """Median tokens/s at each batch size, and the batch size at which both are equally fast."""
    batches = sorted({int(name.partition("@")[2]) for name in rounds[0]})
    curves = {
        model: [statistics.median(one[f"{model}@{batch}"]["tokens_per_s"] for one in rounds) for batch in batches]
        for model in ("student", "autoregressive")
    }
    ratios = [student / other for student, other in zip(*curves.values(), strict=True)]
    return {"batches": batches, **curves, "crossover_batch": crossover(batches, ratios)}


def crossover(batches: list[int], ratios: list[float]) -> float | None:
    """The first batch size at which the ratio passes 1, between measured ones on a straight line of logarithms."""
    points = [(math.log(batch), math.log(ratio)) for batch, ratio in zip(batches, ratios, strict=True)]
    for (x, y), (next_x, next_y) in zip(points, points[1:], strict=False):
        if (y > 0) != (next_y > 0):
            return math.exp(x + (next_x - x) * y / (y - next_y))
    return None
