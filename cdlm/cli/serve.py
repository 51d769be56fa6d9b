"""``cdlm serve``; ``cdlm.server.settings`` defines its flags."""

import sys

import typer

from cdlm import garbage


def serve(context: typer.Context) -> None:
    """Serve a checkpoint over HTTP."""
    with garbage.ignored():
        from cdlm.server.command_line import SettingsError, parse_settings
        from cdlm.server.run import serve

    try:
        settings = parse_settings(context.args)
    except SettingsError as error:
        typer.echo(f"cdlm serve: {error}", err=True)
        raise typer.Exit(2) from None
    sys.exit(serve(settings))
