"""Measures the memory that loading takes, in a fresh process for each type.

    .venv/bin/python -m benchmarks.loading --output benchmarks/results/DATE-loading

Builds a random sharded checkpoint of about 2.3 GB in a temporary directory, which is removed at the end. The bar: peak
memory of at most the model plus 1.2 times the largest shard.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.loading.checkpoint import DTYPES, write_random_checkpoint

BAR = 1.2


def main(
    output: Annotated[Path, typer.Option(help="Directory for result.json.")],
    layers: Annotated[int, typer.Option(help="Layers of width 1536; 14 make 2.3 GB.")] = 14,
    stored: Annotated[str, typer.Option(help=f"Type on disk: {', '.join(DTYPES)}.")] = "bfloat16",
    scratch: Annotated[Path | None, typer.Option(help="Where the checkpoint is built for the run.")] = None,
) -> None:
    """Builds, loads in both types, writes the figures; exits 1 where the bar is missed."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        checkpoint = write_random_checkpoint(Path(directory), layers=layers, dtype=stored)
        rows = [probe(checkpoint, dtype) for dtype in DTYPES]
    result = {"stored": stored, "bar": BAR, "python": platform.python_version(), "torch": torch.__version__}
    text = json.dumps(result | {"loads": rows}, indent=2)
    typer.echo(text)
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").write_text(text + "\n")
    raise typer.Exit(any(row["beyond_model_over_largest_shard"] >= BAR for row in rows))


def probe(checkpoint: Path, dtype: str) -> dict[str, Any]:
    """Measures one load in a new process."""
    command = [sys.executable, "-m", "benchmarks.loading.probe", str(checkpoint), dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    typer.run(main)
