"""``cdlm serve``; ``cdlm.server.settings`` defines its flags."""

import sys

import typer

from cdlm import garbage
from cdlm.cli.commands import one_line


def serve(context: typer.Context) -> None:
    """Serve a checkpoint over HTTP."""
    with garbage.ignored():
        from cdlm.server.command_line import SettingsError, parse_settings
        from cdlm.server.run import serve

    with one_line("serve", bad_flags=(SettingsError,)):
        settings = parse_settings(context.args)
    sys.exit(serve(settings))
