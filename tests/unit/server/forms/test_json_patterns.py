"""What a pattern of a schema admits as JSON is what it matches, quotes and backslashes among it."""

import json
import random
import re

import pytest
from llguidance import LLMatcher

from cdlm.model.decoding.grammar.byte_matching import BYTES, ends_with
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.forms.json_patterns import compilable
from cdlm.server.openai.protocol.formats import Constraint

BODIES = [
    r"[^\"\\]+\"", r'[^"]+', r"[^\\]+", r"[^a]+", r"[^\n]*", r'[^"\n]+', r"[^\s\\]*", r'[^-"]+', r'([^"])+|\\',
    r'(?:[^"\\]|b)+', r'(?:[^"]|\n)+', r"[\x00-\x21#-~]+", r"[\x00-\x1fa]+", r"[\sa]+", r"[\n\t]+", r"[a\"]+",
    r"\D+", r"\W+", r"\S*", r".+", r"[\w\W]+", r'[^,"]{1,5}', r'[^"é]*', r'[^\'"]+', r'\[[^"]\]', r'[^\]"]+',
    r'a[^"]?', r"[\\b]+", r"\\[^\"]",
]  # fmt: skip
LETTERS = 'ab"\\\n\t ,!é/][-'


def grammar_of(schema: dict[str, object]) -> LLMatcher:
    text = constraint_grammar(Constraint("json", schema, "response_format")).text
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(text), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


@pytest.mark.parametrize("body", BODIES)
def test_patterns_match_the_same_in_json(body: str) -> None:
    rng = random.Random(body)
    value = grammar_of({"type": "string", "pattern": f"^({body})$"})
    key = grammar_of(
        {"type": "object", "patternProperties": {f"^({body})$": {"const": 1}}, "additionalProperties": False}
    )
    matched = 0
    drawn = ["".join(rng.choices(rng.sample(LETTERS, 3), k=rng.randint(1, 4))) for _ in range(400)]
    for text in ["[a]", '["]', r"\a", *drawn]:
        wanted = re.fullmatch(body, text, re.ASCII) is not None
        written = json.dumps(text, ensure_ascii=False).encode()
        assert ends_with(value, written) == wanted, text
        assert ends_with(key, b"{" + written + b":1}") == wanted, text
        matched += wanted
    assert matched


def test_control_characters_without_a_short_escape_may_be_lost() -> None:
    """What is written is still matched; a class that needs no change keeps them."""
    for body, kept in ((r'[^"]', False), ("[\x00-\x1f]", False), (r"[^a]", True), (r'[^"\x00-\x1f]', False)):
        matcher = grammar_of({"type": "string", "pattern": f"^{body}$"})
        assert ends_with(matcher, rb'"\u0001"') == kept
        assert not ends_with(matcher, rb'"\""') or kept


@pytest.mark.parametrize(
    ("pattern", "changed"),
    [(r"\p{Cc}", True), (r"\P{P}", True), (r"[^\p{L}]", True), (r"[a&&[^\"]]", True), (r"\p{L}", False),
     (r"\[^\"]", False), ("[^", False), ("[z-a]", False), ("[^]", False)],
)  # fmt: skip
def test_other_classes(pattern: str, changed: bool) -> None:
    assert (compilable(pattern) != pattern) == changed
    if changed:
        matcher = grammar_of(
            {"type": "object", "properties": {"pattern": {"type": "string", "pattern": f"^{pattern}$"}}}
        )
        assert not ends_with(matcher, rb'{"pattern":"\""}') or pattern == r"[^\p{L}]"


def test_data_that_look_like_patterns_stay() -> None:
    for schema in ({"const": {"pattern": '[^"]'}}, {"enum": [{"pattern": '[^"]'}]}):
        assert ends_with(grammar_of(schema), json.dumps({"pattern": '[^"]'}, separators=(",", ":")).encode())
