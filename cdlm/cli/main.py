"""The ``cdlm`` command; subcommands are imported when they are called."""

from typing import Annotated

import typer

from cdlm import garbage
from cdlm.cli.commands import LazyCommands


def _print_version(wanted: bool) -> None:
    if wanted:
        import cdlm

        typer.echo(f"cdlm {cdlm.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="cdlm",
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _cdlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve, try, measure, plan and train block-causal diffusion language models."""


def main() -> None:
    """Entry point of the console script."""
    with garbage.sought_seldom():
        app()
