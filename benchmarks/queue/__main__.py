"""Measures the scheduling time of an engine step against the number of waiting requests.

    .venv/bin/python -m benchmarks.queue --output benchmarks/results/DATE-queue

The bundled student runs a few rows while other requests wait. Measures the CPU time of the engine's thread per step,
without the forward and the staged prompt; other jobs on the machine matter little.
"""

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Annotated, Any

import torch
import typer

from benchmarks.queue.scenes import SCENES, Scene
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.options import EngineOptions

STEPS = 40


class Clock:
    """Sums the CPU time of calls that are not scheduling."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps ``call`` with the timer."""

        def timed(*arguments: Any, **named: Any) -> Any:
            begun = thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds += thread_time() - begun

        return timed


def measure(scene: Scene, waiting: int, steps: int = STEPS) -> dict[str, Any]:
    """Scheduling milliseconds per step: median and maximum of ``steps``, with about ``waiting`` waiting requests."""
    engine = Engine(EngineOptions(**scene.options))
    clock = Clock()
    engine.runner.step = clock.around(engine.runner.step)  # type: ignore[method-assign]
    engine.staging.advance = clock.around(engine.staging.advance)  # type: ignore[method-assign]
    for number in range(scene.running):
        engine.add(scene.runs(number))
    for _ in range(scene.warm_up if scene.running else 0):
        engine.step()
    added = 0
    figures = []
    depths = []
    for _ in range(steps):
        while engine.stats().waiting < waiting:
            engine.add(scene.waits(added))
            added += 1
        clock.seconds, begun = 0.0, thread_time()
        stats = engine.step().stats
        spent = thread_time() - begun - clock.seconds
        figures.append(spent * 1e3)
        depths.append(stats.waiting)
    return {
        "scene": scene.name,
        "waiting": waiting,
        "left_waiting": min(depths),
        "median_ms": round(statistics.median(figures), 3),
        "largest_ms": round(max(figures), 3),
    }


def main(
    output: Annotated[Path | None, typer.Option(help="Directory for result.json; none is written without.")] = None,
    only: Annotated[str, typer.Option(help="One scene instead of all.")] = "",
) -> None:
    """Runs every scene with 0, 100 and 1,000 waiting requests."""
    torch.set_num_threads(1)
    rows = []
    for scene in SCENES:
        for waiting in (0, 100, 1000):
            if only in ("", scene.name):
                rows.append(measure(scene, waiting))
                typer.echo(json.dumps(rows[-1]))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        about = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
        (output / "result.json").write_text(json.dumps(about | {"steps": STEPS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
