"""Validation of stop strings."""

from typing import Annotated

from pydantic import Field

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024


def check_stops(value: object) -> tuple[str, ...]:
    """Validates one stop string or a list of up to 16, none empty; raises ``ValueError``."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple):
        raise ValueError("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop strings are allowed, not {len(stops)}")
    for stop in stops:
        if not isinstance(stop, str):
            raise ValueError("must be a string or a list of strings")
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise ValueError(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters, not {len(stop)}")
    return tuple(stops)


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopInput = StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)]
