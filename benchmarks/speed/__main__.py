"""The command: ``python -m benchmarks.speed``, which ``make bench`` runs."""

import datetime
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.speed.comparisons.table import COMPARISONS
from benchmarks.speed.contenders.shapes import SHAPES, default_cache
from benchmarks.speed.machine import ROOT
from benchmarks.speed.output.report import write_report
from benchmarks.speed.output.result import ResultError
from benchmarks.speed.run import Choice, run
from benchmarks.speed.settings import QUICK, Settings
from cdlm.model.device import DTYPES

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DEFAULT_SHAPES = ("nano", "dream-0.1b")
_NAMES = {comparison.name: comparison for comparison in COMPARISONS}


@app.command()
def main(
    shape: Annotated[list[str] | None, typer.Option(help=f"Repeat for several: {', '.join(SHAPES)}.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32, bfloat16 or float16; repeat for several.")] = None,
    comparison: Annotated[list[str] | None, typer.Option(help=f"Repeat for several: {', '.join(_NAMES)}.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Instead of each comparison's own sizes.")] = None,
    prompt: Annotated[
        list[int] | None, typer.Option(min=1, help="Prompt tokens, instead of each comparison's own.")
    ] = None,
    repetitions: Annotated[int | None, typer.Option(min=2, help="Rounds of a comparison. Default: 5.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few tokens, two rounds: a check of the benchmark.")] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no comparison after this.")] = None,
    tokens_per_forward: Annotated[
        float | None, typer.Option(min=1, max=32, help="The student's pace. Default: measured.")
    ] = None,
    vllm: Annotated[Path | None, typer.Option(help="Python of an environment with vLLM.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch. Default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[Path | None, typer.Option(help="Where built checkpoints are kept.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Result directory; a killed run continues in the same one.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only write the report of --output again.")
    ] = False,
) -> None:
    """Measure the engine's speed next to its raw forwards and to other decoders of the same shape."""
    settings = replace(QUICK if quick else Settings(), threads=threads, device=device)
    if batch or prompt:
        settings = replace(
            settings, batches=tuple(batch or settings.batches), prompts=tuple(prompt or settings.prompts)
        )
    if repetitions is not None:
        settings = replace(settings, repetitions=repetitions)
    if output is None:
        today = datetime.date.today().isoformat()
        output = ROOT / "runs" / "speed-quick" if quick else ROOT / "benchmarks" / "results" / f"{today}-speed"
    shapes = shape or (["nano"] if quick else list(_DEFAULT_SHAPES))
    _known("--shape", shapes, list(SHAPES))
    _known("--dtype", dtype or [], list(DTYPES))
    _known("--comparison", comparison or [], list(_NAMES))
    choice = Choice(
        shapes=[SHAPES[name] for name in shapes],
        dtypes=dtype or ["float32"],
        comparisons=[_NAMES[name] for name in comparison or _NAMES],
        cache=cache or default_cache(),
        minutes=minutes,
        tokens_per_forward=tokens_per_forward,
        vllm=vllm,
    )
    try:
        if report_only:
            write_report(output)
        else:
            with _unwarned():
                run(settings, choice, output, ["python", "-m", "benchmarks.speed", *sys.argv[1:]], Console(stderr=True))
    except ResultError as error:
        typer.echo(f"benchmarks.speed: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(output / "README.md")


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence the engine's warning of a teacher's layout: weights drawn at random lose nothing by it."""
    logger = logging.getLogger("cdlm.scheduler.engine")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _known(option: str, names: list[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)


if __name__ == "__main__":
    app()
