"""Schemas made ready for a grammar: dates, multiples and alternatives, and how a refusal reads."""

import datetime
import itertools
import json
import re
from typing import Any

import pytest

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.server.errors import ApiError
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.forms.json_formats import PATTERNS
from cdlm.server.openai.forms.json_schema import prepared
from cdlm.server.openai.protocol.formats import Constraint
from tests.unit.server.forms.test_json_schema import OPEN, VOCABULARY, A, B, admits

PLAIN: list[tuple[dict[str, Any], str]] = [
    ({"type": "strin"}, "there is no type 'strin'"),
    ({"$ref": "http://127.0.0.1:1/x.json"}, "the reference 'http://127.0.0.1:1/x.json' leads out of the schema"),
    ({"$ref": "#/$defs/no"}, "there is nothing at the reference '#/$defs/no'"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "alternatives of oneOf must exclude each other"),
    ({"type": "string", "pattern": "("}, "regex parse error: ( ^ error: unclosed group"),
    (
        {"enum": ["a"], "format": "date"},
        "no value is valid under the schema: no text has the pattern, format and length",
    ),
    (
        {"type": "integer", "minimum": 5, "maximum": 3},
        "no value is valid under the schema: minimum (5) is greater than maximum (3)",
    ),
    (
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        "no value is valid under the schema: nothing may be the required property 'a'",
    ),
    ({"$ref": "#"}, "a reference leads to itself and says nothing"),
    ({"allOf": [{"$ref": "#"}]}, "a reference leads to itself and says nothing"),
    ({"type": "string", "pattern": r"\bfoo"}, r"word borders (\b and \B) are not supported in /\bfoo/"),
    ({"type": "string", "pattern": "$a"}, "^ and $ are supported only where the text begins and ends, not as in /$a/"),
    ({"type": "integer", "minimum": 10**30}, "a bound is too large"),
    ({"type": "number", "maximum": -1e300}, "a bound is too large"),
    ({"type": "string", "minLength": "3"}, "'minLength' may not be \"3\""),
    ({"type": "string", "minLength": -1}, "'minLength' may not be -1"),
    ({"type": "number", "multipleOf": "2"}, "'multipleOf' may not be \"2\""),
    ({"type": "number", "multipleOf": 0}, "multipleOf must be more than 0"),
]


@pytest.mark.parametrize(("schema", "message"), PLAIN)
def test_reasons_are_plain(schema: dict[str, Any], message: str) -> None:
    text = constraint_grammar(Constraint("json", schema, "x")).text
    with pytest.raises(GrammarError) as caught:
        CompiledGrammar(text, VOCABULARY, 100)
    known = "no value is valid under the schema: "  # Left out where it is seen in a part.
    assert str(caught.value).removeprefix(known) == message.removeprefix(known)


def test_dates_are_those_of_the_calendar() -> None:
    for year in (0, 1, 4, 100, 400, 1900, 2000, 2023, 2024, 9996, 9999):
        for month, day in itertools.product(range(14), range(33)):
            text = f"{year:04}-{month:02}-{day:02}"
            try:
                datetime.date.fromisoformat(text)
            except ValueError:
                assert re.search(PATTERNS["date"], text) is None, text
            else:
                assert re.search(PATTERNS["date"], text), text


@pytest.mark.parametrize(
    ("schema", "text", "valid"),
    [
        ({"format": "date"}, "2024-02-29", True),
        ({"format": "date"}, "2023-02-29", False),
        ({"format": "date"}, "0000-01-01", False),
        ({"format": "time"}, "23:59:59.123456789+01:00", True),
        ({"format": "time"}, "23:59:60Z", False),
        ({"format": "time"}, "11:11:11", False),
        ({"format": "date-time"}, "2024-02-29T00:00:00Z", True),
        ({"format": "date-time"}, "1900-02-29T00:00:00Z", False),
        ({"format": "date", "pattern": "^2"}, "2024-02-29", True),
        ({"format": "date", "pattern": "^2"}, "1999-01-01", False),
        ({"format": "date", "pattern": "^2", "allOf": [{"pattern": "1$"}]}, "2024-01-01", True),
        ({"format": "date", "pattern": "^2", "allOf": [{"pattern": "1$"}]}, "2024-01-02", False),
    ],
)
def test_dates_and_times_are_kept(schema: dict[str, Any], text: str, valid: bool) -> None:
    grammar = constraint_grammar(Constraint("json", {"type": "string"} | schema, "x")).text
    matcher = CompiledGrammar(grammar, VOCABULARY, 400).fresh()
    tokens = VOCABULARY.tokenize(json.dumps(text).encode())
    assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == valid


FAR_APART: list[dict[str, Any]] = [
    {"type": "integer", "multipleOf": 1_000_003},
    {"type": "number", "multipleOf": 1234.567},
    {"multipleOf": 997, "allOf": [{"type": "integer", "multipleOf": 991}]},
    {"$defs": {"a": {"multipleOf": 997}}, "properties": {"x": {"multipleOf": 991, "$ref": "#/$defs/a"}}},
    {"allOf": [{"multipleOf": 10**4000 + 1}, {"multipleOf": 10**4000 + 3}]},
]


@pytest.mark.parametrize("schema", FAR_APART)
def test_multiples_that_take_minutes_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="multipleOf may leave no more than 10000 remainders"):
        prepared(schema, "x")


@pytest.mark.parametrize("multiple", [1_000_000, 9973, 0.000001, 12.5, 3600])
def test_other_multiples_are_kept(multiple: float) -> None:
    text = constraint_grammar(Constraint("json", {"type": "number", "multipleOf": multiple}, "x")).text
    assert CompiledGrammar(text, VOCABULARY, 400).end


def test_alternatives_with_a_tag_exclude_each_other() -> None:
    """As pydantic writes them: with a default, the tag is not required."""

    def kind(name: str) -> dict[str, Any]:
        properties = {"kind": {"const": name, "default": name}, "n": {"type": "integer"}}
        return {"type": "object", "properties": properties, "required": ["n"]}

    both = {"$defs": {"Cat": kind("cat"), "Dog": kind("dog")}}
    for branches in ([kind("cat"), kind("dog")], [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]):
        schema = both | {"oneOf": branches, "discriminator": {"propertyName": "kind"}}
        assert admits(schema, {"kind": "dog", "n": 1})
        assert not admits(schema, {"n": 1})
        assert not admits(schema, {"kind": "dog", "n": 1, "more": 1})


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({"type": "string"}, {"type": ["integer", "null"]}, True),
        ({"type": "number"}, {"type": "integer"}, False),
        (A, {"type": "array"}, True),
        (A, A | OPEN, False),
        (A | {"required": ["a"]}, B | {"required": ["b"]}, False),
    ],
)
def test_alternatives_behind_references(one: dict[str, Any], other: dict[str, Any], apart: bool) -> None:
    schema = {"$defs": {"one": one, "other": other}, "oneOf": [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/other"}]}
    if apart:
        assert admits(schema, {"a": 1} if one == A else "x")
    else:
        with pytest.raises(GrammarError, match="oneOf"):
            admits(schema, {"a": 1})


def test_preparing_is_bounded() -> None:
    wide = {f"d{index}": {"anyOf": [{"$ref": f"#/$defs/d{index + 1}"}] * 2} for index in range(60)}
    prepared({"$defs": wide | {"d60": A}, "allOf": [{"$ref": "#/$defs/d0"}, B]}, "x")
    chain = {f"d{index}": {"allOf": [{"$ref": f"#/$defs/d{index + 1}"}, A]} for index in range(3000)}
    with pytest.raises(ApiError, match="x: the schema"):
        prepared({"$defs": chain | {"d3000": B}, "$ref": "#/$defs/d0"}, "x")
    with pytest.raises(ApiError, match="nested more than"):
        prepared({"default": json.loads("[" * 100 + "]" * 100)}, "x")
