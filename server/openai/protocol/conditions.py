"""Rules between the fields of an object, as JSON Schema says them."""

from pydantic import JsonValue

Condition = dict[str, JsonValue]


def given(name: str, value: JsonValue = None) -> Condition:
    """Objects in which a field is there and not null, or has ``value``."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}} if value is None else {"const": value}}}


def either(*conditions: Condition) -> Condition:
    """Objects that fulfil one of the conditions, or several."""
    return {"anyOf": list(conditions)}


def exactly_one(*conditions: Condition) -> Condition:
    """Objects that fulfil one of the conditions and no other."""
    return {"oneOf": list(conditions)}


def implies(first: Condition, second: Condition) -> Condition:
    """Objects that fulfil the second condition wherever they fulfil the first."""
    return {"if": first, "then": second}


def never(condition: Condition) -> Condition:
    """Objects that do not fulfil a condition."""
    return {"not": condition}
