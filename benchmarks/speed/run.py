"""Goes through shapes, precisions and comparisons, and writes each as it is finished."""

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.speed.comparisons.comparison import Cell, Comparison
from benchmarks.speed.contenders.load import Unavailable
from benchmarks.speed.contenders.shapes import Shape
from benchmarks.speed.contenders.workbench import Workbench, engine_options
from benchmarks.speed.machine import commit, load_average, machine
from benchmarks.speed.output.report import write_report
from benchmarks.speed.output.result import Result
from benchmarks.speed.pace import Pace, measure_pace
from benchmarks.speed.settings import Settings
from cdlm.cli.bench.client import CompletionError
from cdlm.cli.local_server import LocalServerError
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.config import CheckpointError
from cdlm.model.device import resolve_device
from cdlm.scheduler.errors import EngineError

# Of one contender: the others go on.
_FAILURES = (Unavailable, EngineError, LocalServerError, CompletionError, CheckpointError, torch.OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure, in this order.

    Attributes:
        minutes: no comparison is begun later than this; ``None`` sets no limit.
        tokens_per_forward: the pace, instead of measuring it.
        cache: where built checkpoints lie.
        vllm: a Python with vLLM installed.
    """

    shapes: Sequence[Shape]
    dtypes: Sequence[str]
    comparisons: Sequence[Comparison]
    cache: Path
    minutes: float | None = None
    tokens_per_forward: float | None = None
    vllm: Path | None = None


def run(settings: Settings, choice: Choice, output: Path, command: Sequence[str], console: Console) -> None:
    """Measures what ``output`` does not hold yet, and writes its report.

    Raises:
        ResultError: ``output`` holds a result of other settings.
    """
    started = time.monotonic()
    result = Result(output, settings)
    device = resolve_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    pace = _pace(settings, choice, result)
    result.begin(command, _now(), machine(device), pace)
    console.print(f"student's pace: {pace.tokens_per_forward:.2f} tokens per forward; result in {output}")
    try:
        for shape in choice.shapes:
            for dtype in choice.dtypes:
                with Workbench(shape, dtype, settings, pace, choice.cache, choice.vllm) as bench:
                    for comparison in choice.comparisons:
                        for cell in comparison.cells(settings):
                            key = comparison.key(shape.name, dtype, cell)
                            if result.finished(key):
                                continue
                            header = _header(comparison, bench, cell)
                            spent = (time.monotonic() - started) / 60
                            if choice.minutes is not None and spent > choice.minutes:
                                entry = {"skipped": f"the {choice.minutes:g} minutes of the run were over."}
                            else:
                                entry = _measured(comparison, bench, cell)
                            result.add(key, {**header, **entry})
                            console.print(f"{spent:7.1f} min  {key}  {_in_short(entry)}", soft_wrap=True)
                        bench.drop()
    finally:
        write_report(output)


def _pace(settings: Settings, choice: Choice, result: Result) -> Pace:
    if choice.tokens_per_forward is not None:
        return Pace(choice.tokens_per_forward)
    if result.pace is not None:
        return result.pace
    return measure_pace(settings.problems, engine_options(BUNDLED_STUDENT, "auto", settings))


def _header(comparison: Comparison, bench: Workbench, cell: Cell) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "shape": bench.shape.name,
        "dtype": bench.dtype,
        "batch": cell.batch,
        "prompt": cell.prompt,
        "commit": commit(),
        "date": _now(),
        "load_average": load_average(),
    }


def _measured(comparison: Comparison, bench: Workbench, cell: Cell) -> dict[str, Any]:
    started = time.monotonic()
    try:
        entry = comparison.measure(bench, cell)
    except _FAILURES as error:
        return {"skipped": str(error)}
    return {"wall_s": round(time.monotonic() - started, 1), **entry}


def _in_short(entry: dict[str, Any]) -> str:
    if "skipped" in entry:
        return f"skipped: {entry['skipped']}"
    ratios = ", ".join(f"{name} {ratio['median']:.3g}" for name, ratio in entry["ratios"].items())
    return f"{ratios}  ({entry['wall_s']:.0f} s)"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
