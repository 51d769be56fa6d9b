"""The table of fields, and its use in validation."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import JsonValue
from pydantic_core import PydanticCustomError

from cdlm.server.openai.fields.anthropic import ANTHROPICS
from cdlm.server.openai.fields.decisions import DECISION_FIELDS
from cdlm.server.openai.fields.harmless import HARMLESS
from cdlm.server.openai.fields.honored import HONORED
from cdlm.server.openai.fields.infilling import INFILLING
from cdlm.server.openai.fields.refused import REFUSED
from cdlm.server.openai.fields.row import Row

TABLE: tuple[Row, ...] = tuple(
    row
    for part in (HONORED, HARMLESS, REFUSED, DECISION_FIELDS, INFILLING, ANTHROPICS)
    for rows in part
    for row in rows
)

# Error type of an unwanted field; the error's context has its name.
UNWANTED = "unwanted_field"

_BY_PLACE: dict[str, dict[str, Row]] = {}
for _row in TABLE:
    for _place in _row.places:
        _BY_PLACE.setdefault(_place, {})[_row.name] = _row


def rows_of(place: str) -> Mapping[str, Row]:
    """Field name -> row, for a route or an object inside bodies."""
    return _BY_PLACE.get(place, {})


def settle(place: str, known: Collection[str], data: Mapping[str, JsonValue], path: str = "") -> dict[str, JsonValue]:
    """Returns the ``known`` fields of an object that are not null.

    Raises ``PydanticCustomError`` for an unknown field, unless the table has it and its value requests nothing.
    ``path`` is the prefix of field names in errors.
    """
    asked: dict[str, JsonValue] = {}
    for name, value in data.items():
        if value is None:
            continue
        if name in known:
            asked[name] = value
        elif (row := rows_of(place).get(name)) is None or not row.accepts(value):
            field = path + name[:64]
            raise PydanticCustomError(UNWANTED, "{reason}", {"field": field, "reason": _reason(place, known, name)})
    return asked


def _reason(place: str, known: Collection[str], name: str) -> str:
    if (row := rows_of(place).get(name)) is not None:
        return "is not supported by this server" + (f"; {row.note}" if row.note else "")
    shown = [field for field in known if field.isidentifier()]
    # Field names are lower case; clients may use others.
    near = get_close_matches(name.lower()[:64], shown, 1, 0.7)
    return f"is not a field of {place}" + (f"; did you mean {near[0]}?" if near else "")


def describe_rows(place: str, schema: dict[str, Any]) -> None:
    """Adds fields without effect to the JSON schema of an object, in place."""
    schema["additionalProperties"] = {"type": "null", "description": "Null means absent."}
    for name, row in rows_of(place).items():
        if row.verdict == "honored" or name in schema.get("properties", {}):
            continue
        about = f"{row.verdict.capitalize()}; {row.note}" if row.note else row.verdict.capitalize()
        allowed = {} if row.verdict == "harmless" else {"enum": [None, *row.idle]}
        schema.setdefault("properties", {})[name] = {**allowed, "description": about, "x-verdict": row.verdict}
