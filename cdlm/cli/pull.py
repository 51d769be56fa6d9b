"""``cdlm pull``: fetches a model without serving it."""

import logging
import sys
from typing import Annotated

import typer

from cdlm.cli.commands import one_line


def pull(
    model: Annotated[str, typer.Argument(help="cdlm-smol, or an id owner/name on the Hugging Face Hub.")] = "cdlm-smol",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an id.")] = None,
) -> None:
    """Fetch a model into the cache, so that it can be served without a network; print where it is."""
    from cdlm.model.config import CheckpointError
    from cdlm.server.command_line import SettingsError, parse_settings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    flags = [f"--model={model}", *([] if revision is None else [f"--revision={revision}"])]
    with one_line("pull", CheckpointError, bad_flags=(SettingsError,)):
        typer.echo(parse_settings(flags).fetched().model)
