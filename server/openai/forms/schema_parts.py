"""What single keywords of a JSON schema say, as ``server/openai/forms/json_schema.py`` asks for it."""

import math
from collections.abc import Iterable
from decimal import Decimal

from pydantic import JsonValue

Node = dict[str, JsonValue]


def listed(node: Node, name: str) -> list[JsonValue]:
    """The items of a keyword; none where it is absent or no list."""
    found = node.get(name)
    return found if isinstance(found, list) else []


def tag_of(node: Node) -> str | None:
    """The property by which alternatives are told apart, as OpenAPI names it."""
    found = node.get("discriminator")
    name = found.get("propertyName") if isinstance(found, dict) else None
    return name if isinstance(name, str) else None


def remainders(nodes: Iterable[Node]) -> int:
    """How many remainders the ``multipleOf`` of schemas of one number leave together, noughts at their ends aside."""
    found = 1
    for node in nodes:
        multiple = node.get("multipleOf")
        if isinstance(multiple, bool) or not isinstance(multiple, int | float):
            continue  # Refused when it is compiled, as infinity is.
        if isinstance(multiple, int) or math.isfinite(multiple):
            digits = "".join(map(str, Decimal(repr(multiple)).as_tuple().digits)).rstrip("0")
            found = min(math.lcm(found, int(digits or "1")), 10**9)  # Beyond any bound.
    return found


def without_names(node: Node) -> Node:
    """``node`` with ``propertyNames`` said in other words, where it is a list of names or a pattern."""
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
    """Whether it is plain that no value is valid under both, where objects have the property ``tag``."""
    if (kinds := _kinds(one)) and (others := _kinds(other)) and not kinds & others:
        return True
    first, second = _tagged(one, tag), _tagged(other, tag)
    pairs = [(_texts(first[name]), _texts(second[name])) for name in first.keys() & second.keys()]
    return any(a and b and not a & b for a, b in pairs)


def _tagged(node: Node, tag: str | None) -> Node:
    """The properties that a value valid under ``node`` has for certain, with their schemas."""
    properties = node.get("properties")
    if node.get("type") != "object" or not isinstance(properties, dict):
        return {}
    return {name: value for name, value in properties.items() if name in [*listed(node, "required"), tag]}


def _texts(value: JsonValue) -> set[str]:
    """The texts that are valid under a schema, if it lists them; empty if it does not, or lists other values."""
    found = ([value["const"]] if "const" in value else listed(value, "enum")) if isinstance(value, dict) else []
    texts = {each for each in found if isinstance(each, str)}
    return texts if len(texts) == len(found) else set()


def _kinds(node: Node) -> set[str]:
    found = node.get("type")
    kinds = {found} if isinstance(found, str) else {each for each in listed(node, "type") if isinstance(each, str)}
    return kinds | {"number"} if "integer" in kinds else kinds
