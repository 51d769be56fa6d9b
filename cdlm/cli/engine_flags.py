"""Flags of a command that loads a model and generates in its own process: decoding parameters, and those of
``cdlm serve`` that say what is loaded.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.options import EngineOptions
from cdlm.server.settings import ServerSettings

# Without parameters that are engine options too, and those with structured values.
_DECODING = [
    name
    for name, field in DecodingParams.model_fields.items()
    if name not in EngineOptions.model_fields and not isinstance(field.default, dict | list)
]
# Options without use for a single sequence.
_BATCHES = frozenset({"max_num_seqs", "max_num_batched_tokens", "max_prefill_tokens", "enable_prefix_caching"})
_LOADING = [
    name
    for name in ServerSettings.model_fields
    if name in {*EngineOptions.model_fields, "revision", "chat_template"} - _BATCHES
]


def with_engine_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to a command, whose first two arguments get their values: the flags that were set and say what is
    loaded, for ``parse_settings``, and the ``DecodingParams``.
    """

    @functools.wraps(command)
    def run(**values: Any) -> None:
        loading = {name: values.pop(name) for name in _LOADING}
        given = {name: values.pop(name) for name in _DECODING}
        try:
            params = DecodingParams(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise typer.BadParameter(first["msg"], param_hint=_flag(str(first["loc"][0]))) from None
        flags = [f"{_flag(name)}={value}" for name, value in loading.items() if value is not None]
        command(flags, params, **values)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[2:]
    parameters = DecodingParams.model_fields
    decoding = [
        _parameter(name, parameters[name].annotation, parameters[name].default, help=parameters[name].description)
        for name in _DECODING
    ]
    # Values stay text: the settings validate them, as for ``cdlm serve``.
    loading = [
        _parameter(name, str | None, None, help=ServerSettings.model_fields[name].description, metavar="VALUE")
        for name in _LOADING
    ]
    run.__signature__ = inspect.Signature([*own, *decoding, *loading])  # type: ignore[attr-defined]
    return run


def _parameter(name: str, kind: Any, default: Any, **texts: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(_flag(name), **texts)]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
