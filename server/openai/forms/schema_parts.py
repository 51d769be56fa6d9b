"""Helpers for single keywords of JSON schemas, for ``server/openai/forms/json_schema.py``."""

import math
from collections.abc import Iterable
from decimal import Decimal

from pydantic import JsonValue

Node = dict[str, JsonValue]


def listed(node: Node, name: str) -> list[JsonValue]:
    """The items of a keyword; empty if it is absent or not a list."""
    found = node.get(name)
    return found if isinstance(found, list) else []


def tag_of(node: Node) -> str | None:
    """The property that distinguishes alternatives (OpenAPI's ``discriminator``); ``None`` without one."""
    found = node.get("discriminator")
    name = found.get("propertyName") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def remainders(nodes: Iterable[Node]) -> int:
    """Least common multiple of all ``multipleOf`` of one number, without trailing zeros: a grammar's remainders."""
    found = 1
    for node in nodes:
        multiple = node.get("multipleOf")
        if isinstance(multiple, bool) or not isinstance(multiple, int | float):
            continue  # The compiler refuses it.
        if isinstance(multiple, int) or math.isfinite(multiple):
            digits = "".join(map(str, Decimal(repr(multiple)).as_tuple().digits)).rstrip("0")
            found = min(math.lcm(found, int(digits or "1")), 10**9)  # Above every limit.
    return found


def without_names(node: Node) -> Node:
    """Rewrites ``propertyNames`` of ``node`` with other keywords, if it is a list of names or a pattern."""
    names, taken = node.get("propertyNames"), node.get("properties") or node.get("patternProperties")
    if not isinstance(names, dict) or taken or not names.keys() <= {"type", "enum", "const", "pattern"}:
        return node
    value = node.get("additionalProperties", True)
    among = names.get("enum", [names["const"]] if "const" in names else None)
    if isinstance(among, list) and all(isinstance(name, str) for name in among):
        said: Node = {"properties": {str(name): value for name in among}}
    elif isinstance(pattern := names.get("pattern"), str) and "enum" not in names and "const" not in names:
        said = {"patternProperties": {pattern: value}}
    else:
        return node
    rest = {name: value for name, value in node.items() if name != "propertyNames"}
    return rest | said | {"additionalProperties": False}


def apart(one: Node, other: Node, tag: str | None) -> bool:
    """Whether no value can be valid under both, as far as is easily seen; objects have the property ``tag``."""
    if (kinds := _kinds(one)) and (others := _kinds(other)) and not kinds & others:
        return True
    first, second = _tagged(one, tag), _tagged(other, tag)
    pairs = [(_texts(first[name]), _texts(second[name])) for name in first.keys() & second.keys()]
    return any(a and b and not a & b for a, b in pairs)


def _tagged(node: Node, tag: str | None) -> Node:
    """The schemas of properties that every value valid under ``node`` has."""
    properties = node.get("properties")
    if node.get("type") != "object" or not isinstance(properties, dict):
        return {}
    return {name: value for name, value in properties.items() if name in [*listed(node, "required"), tag]}


def _texts(value: JsonValue) -> set[str]:
    """The strings that a schema lists as its only values; empty otherwise."""
    found = ([value["const"]] if "const" in value else listed(value, "enum")) if isinstance(value, dict) else []
    texts = {each for each in found if isinstance(each, str)}
    return texts if len(texts) == len(found) else set()


def _kinds(node: Node) -> set[str]:
    found = node.get("type")
    kinds = {found} if isinstance(found, str) else {each for each in listed(node, "type") if isinstance(each, str)}
    return kinds | {"number"} if "integer" in kinds else kinds
