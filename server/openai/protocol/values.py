"""Values of fields that no type of JSON describes: stop strings, and biases by token."""

from typing import Annotated

from pydantic import Field

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 1024


def check_stops(value: object) -> tuple[str, ...]:
    """One stop string or up to 16 of them, none empty; raises ``ValueError``."""
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
BIASES = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": MAX_BIASES,
}


def check_bias(value: object) -> dict[int, float]:
    """Token ids and what is added to their logits; raises ``ValueError``."""
    if not isinstance(value, dict):
        raise ValueError("must be an object of token ids and numbers")
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens may have a bias, not {len(value)}")
    value = {str(name): bias for name, bias in value.items()}  # In Python an id may be a number.
    names = [name for name in value if not (name.isascii() and name.isdigit() and len(name) <= 10)]
    # bool is an int to Python, not to JSON; the comparison is false for NaN too.
    numbers = [
        name
        for name, bias in value.items()
        if name not in names
        and (isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100)
    ]
    wrong = [f"{_listed(names)} must be a token id"] if names else []
    wrong += [f"the bias of {', '.join(numbers)} must be a number from -100 to 100"] if numbers else []
    if wrong:
        raise ValueError("; ".join(wrong))
    return {int(name): float(bias) for name, bias in value.items()}


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:32]) for name in names)
