"""Sub-commands by name. Their modules import a lot, so each is imported only where its command is called."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

# Where each lies, and its line in the list of commands.
COMMANDS = {
    "serve": ("cdlm.cli.serve:serve", "Serve a checkpoint over HTTP."),
    "generate": ("cdlm.cli.generate:generate", "Answer one prompt without a server."),
    "eval": ("cdlm.cli.eval.command:evaluate", "Measure answers on problems that training never sees."),
    "bench": ("cdlm.cli.bench.command:bench", "Load a server and print throughput, latencies and diffusion figures."),
    "plan": ("cdlm.cli.plan.command:plan", "What a model can do on an accelerator, computed and not measured."),
    "doctor": ("cdlm.cli.doctor.command:doctor", "Whether a model can be served on this machine, and how."),
    "key": ("cdlm.cli.key:key", "Draw an API key."),
    "train": ("cdlm.cli.train:app", "Train a student stage by stage."),
}
# Their flags are those of the settings, which are read by themselves.
_FLAGS_OF_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


class LazyCommand(TyperCommand):
    """Stands for a command in a list, and becomes it where it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name, help=COMMANDS[name][1], rich_markup_mode="rich")

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """A context of the real command."""
        return load_command(str(self.name)).make_context(info_name, args, parent, **extra)


class LazyCommands(TyperGroup):
    """All sub-commands, as ``COMMANDS`` lists them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: LazyCommand(name) for name in COMMANDS}


def load_command(name: str) -> Any:
    """The real command of that name; a module's ``app`` is a group of its own."""
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
