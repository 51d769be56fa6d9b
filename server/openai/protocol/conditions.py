"""JSON Schema conditions between the fields of an object."""

from pydantic import JsonValue

Condition = dict[str, JsonValue]


def given(name: str, value: JsonValue = None) -> Condition:
    """Matches objects in which a field is present and not null, or has ``value``."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}} if value is None else {"const": value}}}


def either(*conditions: Condition) -> Condition:
    """Matches objects that satisfy at least one condition."""
    return {"anyOf": list(conditions)}


def exactly_one(*conditions: Condition) -> Condition:
    """Matches objects that satisfy exactly one condition."""
    return {"oneOf": list(conditions)}


def implies(first: Condition, second: Condition) -> Condition:
    """Matches objects that satisfy the second condition if they satisfy the first."""
    return {"if": first, "then": second}


def never(condition: Condition) -> Condition:
    """Matches objects that do not satisfy a condition."""
    return {"not": condition}
