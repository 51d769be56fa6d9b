"""Command flags for decoding parameters, made from ``DecodingParams``."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.options import EngineOptions

# Without parameters that are engine options too, and those with structured values.
_NAMES = [
    name
    for name, field in DecodingParams.model_fields.items()
    if name not in EngineOptions.model_fields and not isinstance(field.default, dict | list)
]


def with_decoding_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to a command, whose argument ``params`` gets their values."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        given = {name: values.pop(name) for name in _NAMES}
        try:
            params = DecodingParams(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise typer.BadParameter(first["msg"], param_hint=_flag(str(first["loc"][0]))) from None
        command(*args, params=params, **values)

    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "params"]
    run.__signature__ = inspect.Signature([*own, *map(_parameter, _NAMES)])  # type: ignore[attr-defined]
    return run


def _parameter(name: str) -> inspect.Parameter:
    field = DecodingParams.model_fields[name]
    option = typer.Option(_flag(name), help=field.description)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=field.default,
        annotation=Annotated[field.annotation, option],
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
