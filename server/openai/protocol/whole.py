"""Whole numbers of JSON, which has one kind of number: 5.0 is the integer 5."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin


def takes_integers(annotation: object) -> bool:
    """Whether a field's type has integers in it, itself or in lists, and no other numbers."""
    parts = list(_parts(annotation))
    return int in parts and float not in parts


def whole(value: Any) -> Any:
    """A value with 5.0 as 5, itself and in lists."""
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parts(annotation: object) -> Iterator[object]:
    arguments = get_args(annotation)
    # What Annotated adds to a type is no type.
    for argument in arguments[:1] if get_origin(annotation) is Annotated else arguments:
        yield from _parts(argument)
    yield annotation
