"""Prepares JSON schemas of requests for the grammar compiler (docs/structured-output.md)."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from pydantic import JsonValue

from cdlm.server.errors import invalid
from cdlm.server.openai.forms.json_formats import FORMATS, PATTERNS
from cdlm.server.openai.forms.json_patterns import compilable
from cdlm.server.openai.forms.schema_parts import Node, apart, listed, remainders, tag_of, without_names

MAX_DEPTH = 64
MAX_VARIANTS = 512
MAX_MULTIPLE = 10_000  # A grammar has one state per remainder: more take seconds to minutes to compile.
_MAX_WORK = 500_000  # Schemas visited while merging those of one object: about a second.

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_INNER = ("additionalProperties", "items", "additionalItems", "prefixItems")
_ALTERNATIVES = ("anyOf", "oneOf")
_KEPT = frozenset(
    (
        *_MAPS, *_INNER, *_ALTERNATIVES, "$anchor", "$id", "$ref", "allOf", "const", "enum", "exclusiveMaximum",
        "exclusiveMinimum", "format", "id", "maxItems", "maxLength", "maxProperties", "maximum", "minItems",
        "minLength", "minProperties", "minimum", "multipleOf", "pattern", "required", "type",
    )
)  # fmt: skip
# Keywords that a grammar cannot enforce, with the values that require nothing.
_REFUSED: dict[str, tuple[JsonValue, ...]] = {
    "$dynamicRef": (),
    "$recursiveRef": (),
    "contains": (),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "if": (),
    "not": (),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}, False),
    "uniqueItems": (False,),
}


@dataclass(frozen=True, slots=True)
class _Names:
    """The properties that schemas of one object mention, and whether one of them allows others.

    ``needed`` is a property that distinguishes alternatives.
    """

    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    open: bool = False
    needed: str | None = None

    def __or__(self, other: "_Names") -> "_Names":
        return _Names(self.names | other.names, self.patterns | other.patterns, self.open or other.open, self.needed)


_NOTHING = _Names()


def prepared(schema: Node, param: str) -> dict[str, JsonValue]:
    """Removes annotations from ``schema``, and closes objects that do not mention ``additionalProperties``.

    Raises ``ApiError`` 400 that names ``param`` for keywords that a grammar cannot enforce.
    """
    _check_depth(schema, param, MAX_DEPTH)
    try:
        return _Preparation(schema, param).run()
    except RecursionError:  # Chains of references.
        raise invalid(f"{param}: the schema's references are nested too deeply", param) from None


def _check_depth(value: JsonValue, param: str, depth: int) -> None:
    if depth == 0:
        raise invalid(f"{param}: the schema is nested more than {MAX_DEPTH} levels deep", param)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in parts:
        _check_depth(item, param, depth - 1)


@dataclass(slots=True)
class _Preparation:
    """``variants`` are definitions combined with further constraints on the same object."""

    root: Node
    param: str
    variants: dict[tuple[str, _Names], str] = field(default_factory=dict)
    made: dict[str, JsonValue] = field(default_factory=dict)
    known: dict[int, _Names] = field(default_factory=dict)
    work: int = 0
    multiples: bool = False

    def run(self) -> dict[str, JsonValue]:
        self.multiples = '"multipleOf"' in json.dumps(self.root)
        built = self._build(self.root, _NOTHING)
        assert isinstance(built, dict)
        if self.made:
            own = built.get("$defs")
            built["$defs"] = (own if isinstance(own, dict) else {}) | self.made
        return built

    def _build(self, node: JsonValue, around: _Names) -> JsonValue:
        if not isinstance(node, dict):
            return node  # true or false; the compiler refuses other values.
        node = without_names(node)
        self._refuse(node)
        built = {name: self._child(name, value) for name, value in node.items() if name in _KEPT}
        if "format" in built and built["format"] not in list(FORMATS - PATTERNS.keys()):
            del built["format"]
        own = _own(node)
        parts = [("allOf", part) for part in listed(node, "allOf")]
        parts += [(name, part) for name in _ALTERNATIVES for part in listed(node, name)]
        if isinstance(reference := node.get("$ref"), str):
            parts.append(("$ref", self._target(reference)))
        mentioned = [self._mentioned(part) for _, part in parts]
        conjuncts = [said for (name, _), said in zip(parts, mentioned, strict=True) if name not in _ALTERNATIVES]
        here = replace(around | own, open=around.open or own.open or any(said.open for said in conjuncts), needed=None)
        for name in ("allOf", *_ALTERNATIVES):
            if isinstance(node.get(name), list):
                built[name] = []
        for index, (name, part) in enumerate(parts):
            # Alternatives of one list do not apply together; all other parts do.
            others = [
                said for place, ((kind, _), said) in enumerate(zip(parts, mentioned, strict=True))
                if place != index and not (kind == name and name in _ALTERNATIVES)
            ]  # fmt: skip
            beside = replace(_union([here, *others]), open=here.open)
            if name == "$ref":
                built["$ref"] = self._reference(str(reference), part, replace(beside, needed=around.needed))
            else:
                several = built[name]
                assert isinstance(several, list)
                several.append(self._build(part, replace(beside, needed=tag_of(node) if name == "oneOf" else None)))
        if isinstance(built.get("oneOf"), list) and self._exclusive(listed(node, "oneOf"), tag_of(node)):
            either: JsonValue = {"anyOf": built.pop("oneOf")}
            built["allOf"] = [*listed(built, "allOf"), either]
        if isinstance(form := node.get("format"), str) and (pattern := PATTERNS.get(form)):
            said: JsonValue = {"pattern": pattern}
            built |= {"allOf": [*listed(built, "allOf"), said]} if "pattern" in built else {"pattern": pattern}
        self._close(built, node, replace(_union([here, *mentioned]), open=here.open))
        if around.needed in own.names and around.needed not in listed(node, "required"):
            built["required"] = [*listed(node, "required"), around.needed]
        return built

    def _child(self, name: str, value: JsonValue) -> JsonValue:
        if name == "pattern" and isinstance(value, str):
            return compilable(value)
        if name in _MAPS and isinstance(value, dict):
            named = compilable if name == "patternProperties" else str
            return {named(key): self._build(item, _NOTHING) for key, item in value.items()}
        if name in _INNER:
            if isinstance(value, list):
                return [self._build(item, _NOTHING) for item in value]
            return self._build(value, _NOTHING)
        return value

    def _close(self, built: dict[str, JsonValue], node: Node, all_names: _Names) -> None:
        if node.get("unevaluatedProperties") is False:
            built.setdefault("properties", {})
        properties, patterns = built.get("properties"), built.get("patternProperties", {})
        if not isinstance(properties, dict | None) or not isinstance(patterns, dict):
            return
        # Without any information an object may have any property; with an empty list, none.
        known = bool(patterns) or properties is not None
        if not known or "additionalProperties" in built or all_names.open:
            return
        least = node.get("minProperties")
        if isinstance(least, int) and least > len(all_names.names) and not all_names.patterns:
            return
        properties = properties or {}
        built["properties"] = properties | dict.fromkeys(sorted(all_names.names - properties.keys()), True)
        if all_names.patterns:
            built["patternProperties"] = patterns | dict.fromkeys(sorted(all_names.patterns - patterns.keys()), True)
        built["additionalProperties"] = False

    def _reference(self, reference: str, target: JsonValue, beside: _Names) -> str:
        """The reference to use if ``beside`` also applies to the same object."""
        if target is None or (beside == _NOTHING and _usual(reference)):
            return reference
        key = (reference, beside)
        if (found := self.variants.get(key)) is None:
            if len(self.variants) == MAX_VARIANTS:
                raise invalid(f"{self.param}: the schema combines more than {MAX_VARIANTS} definitions", self.param)
            found = self.variants[key] = f"variant {len(self.variants) + 1}"
            self.made[found] = self._build(target, beside)
        return f"#/$defs/{found.replace(' ', '%20')}"

    def _exclusive(self, branches: list[JsonValue], tag: str | None) -> bool:
        """Whether no value can be valid under two of the branches, as far as is easily seen; follows references."""
        followed = []
        for branch in branches:
            for _ in range(MAX_DEPTH):
                if isinstance(branch, dict) and isinstance(reference := branch.get("$ref"), str):
                    branch = self._target(reference)
            if not isinstance(branch, dict):
                return False
            followed.append(branch)
        self.work += len(followed) ** 2
        pairs = itertools.combinations(followed, 2)
        return self.work <= _MAX_WORK and all(apart(one, other, tag) for one, other in pairs)

    def _mentioned(self, node: JsonValue) -> _Names:
        """The properties that a schema and its parts mention for one object."""
        if not isinstance(node, dict):
            return _NOTHING
        if id(node) not in self.known:
            always = self._together(node, ())
            found = _union(map(_own, self._together(node, _ALTERNATIVES)))
            self.known[id(node)] = replace(found, open=any(_own(part).open for part in always))
        return self.known[id(node)]

    def _together(self, node: Node, ways: tuple[str, ...]) -> list[Node]:
        """The schemas that apply to a value valid under ``node``; ``ways`` are keywords with alternatives."""
        found, waiting, seen = [], [node], {id(node)}
        while waiting:
            here = waiting.pop()
            found.append(here)
            self.work += 1
            if self.work > _MAX_WORK:
                raise invalid(f"{self.param}: the schema is too complex", self.param)
            reference = here.get("$ref")
            parts = [part for name in ("allOf", *ways) for part in listed(here, name)]
            parts.append(self._target(reference) if isinstance(reference, str) else None)
            for part in parts:
                if isinstance(part, dict) and id(part) not in seen:
                    seen.add(id(part))
                    waiting.append(part)
        return found

    def _target(self, reference: str) -> JsonValue:
        """The target of a local reference; ``None`` if it cannot be resolved."""
        if reference != "#" and not reference.startswith("#/"):
            return None
        here: JsonValue = self.root
        for step in _steps(reference):
            if isinstance(here, dict):
                here = here.get(step)
            elif isinstance(here, list) and step.isdecimal() and len(step) < 6 and int(step) < len(here):
                here = here[int(step)]
            else:
                return None
        return here

    def _refuse(self, node: Node) -> None:
        for name, harmless in _REFUSED.items():
            # 0 and 1 equal false and true.
            if name in node and not any(type(node[name]) is type(each) and node[name] == each for each in harmless):
                raise invalid(f"{self.param}: the keyword {name!r} of JSON Schema is not supported", self.param)
        if self.multiples and remainders(self._together(node, _ALTERNATIVES)) > MAX_MULTIPLE:
            raise invalid(f"{self.param}: multipleOf may leave no more than {MAX_MULTIPLE} remainders", self.param)
        least, known = node.get("minProperties"), len(listed(node, "required"))
        # A grammar cannot make additional names distinct: two may count as one.
        if isinstance(least, int) and least > known + 1:
            raise invalid(
                f"{self.param}: minProperties may be one more than the required properties, not {least}", self.param
            )


def _own(node: Node) -> _Names:
    properties, patterns = node.get("properties"), node.get("patternProperties")
    names = [*(properties if isinstance(properties, dict) else ()), *listed(node, "required")]
    more = node.get("additionalProperties", False)
    return _Names(
        frozenset(name for name in names if isinstance(name, str)),
        frozenset(map(compilable, patterns) if isinstance(patterns, dict) else ()),
        open=more is not False or node.get("unevaluatedProperties", False) is not False,
    )


def _union(parts: Iterable[_Names]) -> _Names:
    found = _NOTHING
    for part in parts:
        found |= part
    return found


def _steps(reference: str) -> Iterator[str]:
    for step in reference.split("/")[1:]:
        yield unquote(step).replace("~1", "/").replace("~0", "~")


def _usual(reference: str) -> bool:
    """Whether a reference points into a standard place of definitions, which is prepared anyway."""
    steps, place = list(_steps(reference)), 0
    while place < len(steps):
        if steps[place] in (*_MAPS, "allOf", *_ALTERNATIVES):
            place += 2
        elif steps[place] in _INNER:
            place += 2 if place + 1 < len(steps) and steps[place + 1].isdecimal() else 1
        else:
            return False
    return place == len(steps)
