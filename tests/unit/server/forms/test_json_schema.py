"""Schemas made ready for a grammar: which objects are closed, which keywords count, which are refused."""

import json
from typing import Any

import jsonschema
import pytest

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.server.errors import ApiError
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.forms.json_formats import FORMATS
from cdlm.server.openai.forms.json_schema import prepared
from cdlm.server.openai.protocol.formats import Constraint
from tests.support.models.grammars import VOCAB, make_json_tokenizer

VOCABULARY = Vocabulary(make_json_tokenizer(), VOCAB)


def admits(schema: dict[str, Any], value: Any) -> bool:
    """Whether an answer may be ``value``; what may be is valid under the schema as it was sent."""
    text = constraint_grammar(Constraint("json", schema, "response_format")).text
    matcher = CompiledGrammar(text, VOCABULARY, 2000).fresh()
    tokens = VOCABULARY.tokenize(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    admitted = bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())
    if admitted:
        jsonschema.Draft202012Validator(schema).validate(value)
    return admitted


A, B, C = ({"properties": {name: {"type": "integer"}}, "type": "object"} for name in "abc")
OPEN = {"additionalProperties": True}
REF: dict[str, Any] = {"$defs": {"a": A, "b": B}}

# A schema, what an answer may be, and what it may not.
OBJECTS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "silent": (A, [{}, {"a": 1}], [{"b": 1}, {"a": 1, "b": 1}]),
    "open": (A | OPEN, [{"a": 1, "b": 1}], [{"a": "x"}]),
    "values": (A | {"additionalProperties": B}, [{"x": {"b": 1}}], [{"x": {"a": 1}}]),
    "free": ({"type": "object"}, [{}, {"x": [{"y": 1}]}], []),
    "empty": ({"type": "object", "properties": {}}, [{}], [{"x": 1}]),
    "free, one required": ({"type": "object", "required": ["x"]}, [{"x": 1}, {"x": 1, "y": 2}], [{}]),
    "required and not listed": (A | {"required": ["a", "z"]}, [{"a": 1, "z": "q"}], [{"a": 1}]),
    "more than are listed": (A | {"required": ["a"], "minProperties": 2}, [{"a": 1, "b": 2}], [{"a": 1}]),
    "no type": ({"properties": A["properties"]}, [{"a": 1}, 3, "x"], [{"b": 1}]),
    "or null": (A | {"type": ["object", "null"]}, [None, {"a": 1}], [{"b": 1}]),
    "nested": ({"type": "object", "properties": {"in": A}, "required": ["in"]}, [{"in": {}}], [{"in": {"b": 1}}]),
    "nested in open": (OPEN | {"properties": {"in": A}}, [{"in": {"a": 1}, "q": 1}], [{"in": {"b": 1}}]),
    "open in nested": ({"properties": {"in": A | OPEN}}, [{"in": {"b": 1}}], [{"q": 1, "in": {}}]),
    "in arrays": ({"type": "array", "items": A}, [[{"a": 1}]], [[{"b": 1}]]),
    "in tuples": ({"type": "array", "prefixItems": [A, B], "items": C}, [[{"a": 1}, {"b": 1}, {"c": 1}]], [[{"b": 1}]]),
    "of values": ({"type": "object", "additionalProperties": A}, [{"q": {"a": 1}}], [{"q": {"b": 1}}]),
    "of patterns": (
        {"patternProperties": {"^x": A}, "type": "object"}, [{"xy": {"a": 1}}], [{"y": 1}, {"x": {"b": 1}}]),
    "definitions": (REF | {"$ref": "#/$defs/a"}, [{"a": 1}], [{"b": 1}]),
    "old definitions": ({"definitions": {"a b": A}, "$ref": "#/definitions/a%20b"}, [{"a": 1}], [{"b": 1}]),
    "definitions elsewhere": (
        {"components": {"schemas": {"A": A}}, "$ref": "#/components/schemas/A"}, [{"a": 1}], [{"b": 1}]),
    "anyOf": ({"anyOf": [A, B]}, [{"a": 1}, {"b": 1}], [{"a": 1, "b": 1}, {"c": 1}]),
    "anyOf of definitions": (REF | {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}, [{"b": 1}], [{"c": 1}]),
    "anyOf beside properties": (A | {"anyOf": [B, C]}, [{"a": 1, "b": 1}, {"a": 1, "c": 1}], [{"b": 1, "c": 1}]),
    "one of them open": ({"anyOf": [A, B | OPEN]}, [{"b": 1, "c": 1}], [{"b": "x", "c": 1}]),
    "anyOf of required": (
        A | {"properties": A["properties"] | B["properties"], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}], [{}, {"c": 1}]),
    "allOf": ({"allOf": [A, B]}, [{"a": 1, "b": 1}], [{"c": 1}, {"a": "x"}]),
    "allOf of definitions": (
        REF | {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}, [{"a": 1, "b": 1}], [{"c": 1}]),
    "a definition and more": (REF | {"allOf": [{"$ref": "#/$defs/a"}, C]}, [{"a": 1, "c": 1}], [{"b": 1}]),
    "a definition, and alone": (
        REF | {"properties": {"x": {"$ref": "#/$defs/a"}, "y": {"allOf": [{"$ref": "#/$defs/a"}, B]}}},
        [{"x": {"a": 1}, "y": {"a": 1, "b": 1}}], [{"x": {"b": 1}}]),
    "a reference beside properties": (REF | {"$ref": "#/$defs/a"} | B, [{"a": 1, "b": 1}], [{"c": 1}]),
    "allOf, one open": ({"allOf": [A | OPEN, B]}, [{"a": 1, "b": 1, "c": 1}], [{"a": "x"}]),
    "allOf of anyOf": ({"allOf": [A, {"anyOf": [B, C]}]}, [{"a": 1, "c": 1}], [{"d": 1}, {"b": 1, "c": 1}]),
    "patterns beside": (
        {"allOf": [A, {"patternProperties": {"^x": {"type": "integer"}}}]}, [{"a": 1, "xy": 1}], [{"a": 1, "y": 1}]),
    "itself": (
        {"$defs": {"n": {"properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/n"}}, "type": "object"}},
         "$ref": "#/$defs/n"},
        [{"v": 1, "next": {"next": {}}}], [{"next": {"w": 1}}]),
    "the whole": (A | {"properties": {"a": {"$ref": "#"}}}, [{"a": {"a": {}}}], [{"a": {"b": {}}}]),
    "itself and more": (
        {"$defs": {"n": {"allOf": [A, {"properties": {"next": {"$ref": "#/$defs/n"}}}], "type": "object"}},
         "$ref": "#/$defs/n"},
        [{"a": 1, "next": {"a": 2}}], [{"a": 1, "b": 1}, {"next": {"b": 1}}]),
    "unevaluated": (A | {"unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
    "unevaluated only": ({"type": "object", "unevaluatedProperties": False}, [{}], [{"b": 1}]),
    "unevaluated of allOf": ({"allOf": [A, B], "unevaluatedProperties": False}, [{"a": 1, "b": 1}], [{"c": 1}]),
    "unevaluated open": (A | {"unevaluatedProperties": True}, [{"a": 1, "b": 1}], [{"a": "x"}]),
    "names of a list": (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
        [{"a": 1, "b": 1}, {"b": 1}], [{"c": 1}, {"a": "x"}]),
    "names of a pattern": (
        {"type": "object", "propertyNames": {"type": "string", "pattern": "^x"}}, [{"xa": 1}], [{"a": 1}]),
    "any name": (
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": A}, [{"q": {}}], [{"q": 1}]),
    "a name that is a keyword": (
        {"type": "object", "properties": {"format": {"type": "string"}, "not": A, "properties": A}},
        [{"format": "x", "not": {"a": 1}, "properties": {"a": 1}}], [{"not": {"b": 1}}, {"x": 1}]),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_closed_where_the_schema_is_silent(name: str) -> None:
    schema, valid, wrong = OBJECTS[name]
    assert [value for value in valid if not admits(schema, value)] == []
    assert [value for value in wrong if admits(schema, value)] == []


ANNOTATIONS = {
    "$schema": "https://example.com/my-dialect", "$id": "https://example.com/x", "$comment": "c", "title": "t",
    "description": "d", "default": {"not": 1}, "examples": [{"if": 1}], "deprecated": True, "readOnly": True,
    "writeOnly": True, "contentEncoding": "base64", "contentMediaType": "text/plain", "contentSchema": {"not": {}},
    "nullable": True, "example": 3, "discriminator": {"propertyName": "kind"}, "x-order": 1, "markdownDescription": "m",
    "uniqueItems": False, "$dynamicAnchor": "a", "$vocabulary": {}, "then": {}, "else": {}, "minContains": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_change_nothing(name: str) -> None:
    annotation = {name: ANNOTATIONS[name]}
    # Two schemas of one $id would be two resources of one name.
    inner = {"type": "string"} | ({} if name == "$id" else annotation)
    schema = {"type": "object", "properties": {"x": inner}} | annotation
    assert admits(schema, {"x": "a"})
    assert not admits(schema, {"x": 1})


@pytest.mark.parametrize(
    "unknown",
    ["shoe size", "binary", "password", "int32", "int64", "double", "regex", "json-pointer", "starts_with", "includes",
     "lowercase", "base64url", "cuid", "iri", "uri-reference", "json-string", "path", "multi-host-uri", ""],
)  # fmt: skip
def test_unknown_formats_are_annotations(unknown: Any) -> None:
    string = {"type": "string", "minLength": 2, "pattern": "^a"}
    assert prepared(string | {"format": unknown}, "x") == string
    integer = {"type": "integer"}
    assert admits({"properties": {"n": integer | {"format": unknown}}}, {"n": 5})


FORMATTED = {
    "date": ("2024-02-29", "2024-02-30"),
    "date-time": ("2024-02-29T23:59:59.5+01:00", "2024-02-29 23:59"),
    "duration": ("P1DT2H", "1 day"),
    "email": ("a.b@example.com", "a.example.com"),
    "hostname": ("a-b.example.com", "a_b"),
    "ipv4": ("127.0.0.1", "256.0.0.1"),
    "ipv6": ("::1", "1::2::3"),
    "time": ("23:59:59Z", "24:00:00Z"),
    "uri": ("https://example.com/a?b=c#d", "example"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123e4567"),
}


def test_kept_formats_are_kept() -> None:
    assert set(FORMATTED) == FORMATS
    for name, (valid, wrong) in FORMATTED.items():
        matcher = CompiledGrammar(
            constraint_grammar(Constraint("json", {"type": "string", "format": name}, "x")).text, VOCABULARY, 200
        )
        for text, right in ((valid, True), (wrong, False)):
            tokens = VOCABULARY.tokenize(json.dumps(text).encode())
            walk = matcher.fresh()
            assert (walk.try_consume_tokens(tokens) == len(tokens) and walk.is_accepting()) == right, (name, text)


REFUSED = {
    "not": {"const": 1}, "if": {}, "contains": {}, "uniqueItems": True, "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}}, "dependencies": {"a": ["b"]}, "propertyNames": {"maxLength": 3},
    "unevaluatedItems": False, "unevaluatedProperties": {"type": "string"}, "$dynamicRef": "#a", "$recursiveRef": "#",
}  # fmt: skip
WHERE = [
    lambda bad: bad,
    lambda bad: {"properties": {"a": bad}},
    lambda bad: {"type": "array", "items": {"anyOf": [{"type": "null"}, bad]}},
    lambda bad: {"$defs": {"a": {"additionalProperties": bad}}, "$ref": "#/$defs/a"},
    lambda bad: {"components": {"a": bad}, "$ref": "#/components/a"},
]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("keyword", REFUSED)
def test_what_no_grammar_keeps_is_refused_by_name(keyword: str, where: Any) -> None:
    with pytest.raises(ApiError) as caught:
        prepared(where({"type": "object", keyword: REFUSED[keyword]}), "response_format")
    assert caught.value.param == "response_format"
    assert f"{keyword!r}" in caught.value.message
