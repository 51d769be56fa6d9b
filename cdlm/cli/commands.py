"""The subcommands; each module is imported only when its command runs, since imports are slow."""

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

# name -> (module:object, help line).
COMMANDS = {
    "serve": ("cdlm.cli.serve:serve", "Serve a checkpoint over HTTP."),
    "generate": ("cdlm.cli.generate:generate", "Answer one prompt without a server."),
    "eval": ("cdlm.cli.eval.command:evaluate", "Measure answers on problems that training never sees."),
    "bench": ("cdlm.cli.bench.command:bench", "Load a server and print throughput, latencies and diffusion figures."),
    "plan": ("cdlm.cli.plan.command:plan", "Compute what a model can do on an accelerator; measures nothing."),
    "doctor": ("cdlm.cli.doctor.command:doctor", "Check whether a model can be served on this machine."),
    "pull": ("cdlm.cli.pull:pull", "Fetch a model without serving it."),
    "key": ("cdlm.cli.key:key", "Generate an API key."),
    "train": ("cdlm.cli.train:app", "Train a student stage by stage."),
}
# ``ServerSettings`` parses the flags of these commands.
_FLAGS_OF_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@contextlib.contextmanager
def one_line(command: str, *failures: type[Exception], bad_flags: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Ends ``cdlm COMMAND`` with one line for an expected error, with status 2 for those of ``bad_flags``, else 1."""
    try:
        yield
    except (*bad_flags, *failures) as error:
        typer.echo(f"cdlm {command}: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, bad_flags) else 1) from None


class LazyCommand(TyperCommand):
    """A placeholder with a help line; imports the real command when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=COMMANDS[name][1], rich_markup_mode="rich")

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Imports the real command and makes its context."""
        return load_command(str(self.name)).make_context(info_name, args, parent, **extra)


class LazyCommands(TyperGroup):
    """The group of all commands in ``COMMANDS``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: LazyCommand(name) for name in COMMANDS}


def load_command(name: str) -> Any:
    """Imports the real command ``name``; a Typer app becomes a group."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if name == "serve":
        app.command(name, add_help_option=False, context_settings=_FLAGS_OF_SETTINGS)(found)
    else:
        app.command(name, context_settings=_FLAGS_OF_SETTINGS if name == "doctor" else None)(found)
    return get_command(app)
