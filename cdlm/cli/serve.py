"""``cdlm serve``: flags are those of ``cdlm.server.settings``, defined once and there."""

import sys

import typer


def register(app: typer.Typer) -> None:
    """Adds the sub-command; its flags and ``--help`` are left to the settings object."""
    app.command(
        "serve",
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        help="Serve a checkpoint over HTTP; see 'cdlm serve --help'.",
    )(_serve)


def _serve(context: typer.Context) -> None:
    from cdlm.server.command_line import SettingsError, parse_settings
    from cdlm.server.run import serve

    try:
        settings = parse_settings(context.args)
    except SettingsError as error:
        typer.echo(f"cdlm serve: {error}", err=True)
        raise typer.Exit(2) from None
    sys.exit(serve(settings))
