"""Accepts 5.0 as the integer 5, since JSON has one kind of number."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin


def takes_integers(annotation: object) -> bool:
    """Whether a field's type has integers, directly or in lists, and no other numbers."""
    parts = list(_parts(annotation))
    return int in parts and float not in parts


def whole(value: Any) -> Any:
    """Converts whole floats to integers, also in lists."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parts(annotation: object) -> Iterator[object]:
    arguments = get_args(annotation)
    # Skips the metadata of ``Annotated``.
    for argument in arguments[:1] if get_origin(annotation) is Annotated else arguments:
        yield from _parts(argument)
    yield annotation
