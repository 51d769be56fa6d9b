"""Parameters of requests as a page of the docs: ``python -m cdlm.server.openai.schema.page > docs/parameters.md``."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from cdlm.server.anthropic.messages.request import CountTokensRequest, MessagesRequest
from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.decisions.request import DecisionsRequest
from cdlm.server.openai.edit.request import EditRequest
from cdlm.server.openai.fim.request import FimRequest
from cdlm.server.openai.responses.request import ResponsesRequest
from cdlm.server.openai.tokens.request import DetokenizeRequest, TokenizeRequest

_HEAD = """# Parameters

Made by `python -m cdlm.server.openai.schema.page` from the models that read requests. `null` means
absent. A wrong value, or a name that is not here, is a 400 that names the field;
[Fields of other servers](fields.md) says what becomes of each.
"""


def page() -> Iterator[str]:
    """The page, piece by piece."""
    completions, chats, responses = _rows(CompletionRequest), _rows(ChatRequest), _rows(ResponsesRequest)
    both = {name: row for name, row in completions.items() if chats.get(name) == row}
    shared = {name: row for name, row in both.items() if responses.get(name) == row}
    yield _HEAD
    yield from _section("Completions, chats and responses", shared)
    yield from _section("Completions and chats", {name: row for name, row in both.items() if name not in shared})
    for title, rows in (("Completions", completions), ("Chats", chats), ("Responses", responses)):
        yield from _section(f"{title} alone", {name: row for name, row in rows.items() if name not in both | shared})
    for title, model in (("Infilling", FimRequest), ("Edits", EditRequest)):
        alone = {name: row for name, row in _rows(model).items() if completions.get(name) != row}
        yield from _section(f"{title}, where it differs from completions", alone)
    yield from _section("Decisions", _rows(DecisionsRequest))
    yield from _section("Messages", _rows(MessagesRequest))
    yield from _section("Count tokens", _rows(CountTokensRequest))
    yield from _section("Tokenize", _rows(TokenizeRequest))
    yield from _section("Detokenize", _rows(DetokenizeRequest))


def _section(title: str, rows: dict[str, str]) -> Iterator[str]:
    yield f"\n## {title}\n\n| parameter | values | default | meaning |\n|---|---|---|---|\n"
    yield from rows.values()


def _rows(model: type[BaseModel]) -> dict[str, str]:
    """A row of a table for each parameter of one route."""
    schema = model.model_json_schema()
    rows = {}
    for name, field in schema["properties"].items():
        if "x-verdict" in field:  # Skips fields of other servers.
            continue
        default = field.get("default")
        plain = default is not None and default not in ([], {}) and not isinstance(default, dict)
        given = "required" if name in schema.get("required", []) else _code(default) if plain else ""
        about = " ".join(field.get("description", "").split()).replace("|", "\\|")
        rows[name] = f"| `{name}` | {_values(field, schema.get('$defs', {}))} | {given} | {about} |\n"
    return rows


def _values(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Describes the values of a field in a few words."""
    if "$ref" in field:
        return _values(definitions[field["$ref"].rpartition("/")[2]], definitions)
    for key in ("anyOf", "oneOf"):
        if key in field:
            choices = [choice for choice in field[key] if choice != {"type": "null"}]
            return " or ".join(dict.fromkeys(_values(choice, definitions) for choice in choices))
    if "enum" in field or "const" in field:
        return ", ".join(_code(value) for value in field.get("enum", [field.get("const")]) if value is not None)
    kind = str(field.get("type", "any"))
    if kind == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of ({_values(field.get('items', {}), definitions)}){most}"
    if "minimum" in field and "maximum" in field and field["maximum"] < 2**31 - 1:
        return f"{kind}, {field['minimum']:g} to {field['maximum']:g}"
    signs = {"minimum": "from {:g}", "exclusiveMinimum": "above {:g}", "maximum": "up to {:g}"}
    bounds = [words.format(field[key]) for key, words in signs.items() if key in field and abs(field[key]) < 2**31 - 1]
    return ", ".join([kind, *bounds])


def _code(value: object) -> str:
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    sys.stdout.writelines(page())
