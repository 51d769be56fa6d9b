"""The engine flags of ``cdlm serve``, for commands that load a model in their own process."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cdlm.scheduler.options import EngineOptions
from cdlm.server.settings import ServerSettings

# Options without use for a single sequence.
_BATCHES = frozenset({"max_num_seqs", "max_num_batched_tokens", "max_prefill_tokens", "enable_prefix_caching"})
_NAMES = [
    name
    for name in ServerSettings.model_fields
    if name in {*EngineOptions.model_fields, "revision", "chat_template"} - _BATCHES
]


def with_loading_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to a command, whose first argument gets those that were set, for ``parse_settings``."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        flags = {name: values.pop(name) for name in _NAMES}
        command([f"{_flag(name)}={value}" for name, value in flags.items() if value is not None], **values)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    run.__signature__ = inspect.Signature([*own, *map(_parameter, _NAMES)])  # type: ignore[attr-defined]
    return run


def _parameter(name: str) -> inspect.Parameter:
    # Values stay text: the settings validate them, as for ``cdlm serve``.
    option = typer.Option(_flag(name), help=ServerSettings.model_fields[name].description, metavar="VALUE")
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[str | None, option]
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
