"""``python -m benchmarks.scaling``: simulates and writes a dated result."""

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.scaling.experiments import FULL, QUICK, compare_routing, compare_scaling, parameters
from benchmarks.scaling.report import write
from benchmarks.scaling.service import Service

RESULTS = Path(__file__).parents[1] / "results"


def run(
    model: Annotated[str, typer.Option(help="Preset or checkpoint directory, as for cdlm plan.")] = "dream-7b",
    device: Annotated[str, typer.Option(help="Accelerator, as for cdlm plan.")] = "l4",
    tokens_per_forward: Annotated[float, typer.Option(help="Tokens that a forward finalizes per row.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Seed of traffic and routing.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the size, to see that it works.")] = False,
    output: Annotated[Path | None, typer.Option(help="Directory; default: results/DATE-scaling.")] = None,
) -> None:
    """Compares routing and autoscaling policies on simulated replicas."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    directory = output or (Path("runs/scaling-quick") if quick else RESULTS / f"{date}-scaling")
    size = QUICK if quick else FULL
    service = Service(model=model, device=device, tokens_per_forward=tokens_per_forward)
    result: dict[str, object] = {"parameters": parameters(size, service, seed)}
    for part, rows in (
        ("routing", compare_routing(size, service, seed)),
        ("autoscaling", compare_scaling(size, service, seed)),
    ):
        done = []
        for row in rows:
            done.append(row)
            typer.echo(f"{part}: {row['policy']}, p99 {row['latency_p99_s']:.2f} s", err=True)
        result[part] = done
    write(directory, shlex.join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]]), date, result)
    typer.echo(directory)


if __name__ == "__main__":
    typer.run(run)
