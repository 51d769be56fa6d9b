"""``cdlm train``: trainings from configuration files, resumable."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train a model from a configuration file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Train a model from a configuration file."""


@app.command()
def direct(
    config: Annotated[Path, typer.Option(help="TOML file.", exists=True, dir_okay=False)],
    output: Annotated[Path, typer.Option(help="Run directory: state, log, checkpoint. Resumed if it exists.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, one a core.")] = os.cpu_count() or 1,
) -> None:
    """Train a student from random weights with the masked objective under the block-causal mask."""
    from training.config import ConfigError, load_config
    from training.direct import run_direct
    from training.parallel import launch

    try:
        settings = load_config(config)
    except ConfigError as error:
        typer.echo(f"cdlm train: {error}", err=True)
        raise typer.Exit(2) from None
    launch(run_direct, workers, settings, output)
