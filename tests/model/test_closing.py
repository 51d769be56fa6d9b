"""Answers end in time: whatever is written at random, a valid one comes out where one fits."""

import json
import random
from typing import Any

import jsonschema
import pytest

from cdlm.model.grammar.compiled import CompiledGrammar
from cdlm.model.grammar.examples import example
from cdlm.model.grammar.literals import spelled_texts
from cdlm.model.grammar.matcher import AnswerMatcher
from cdlm.model.grammar.vocabulary import Vocabulary
from cdlm.server.answer_grammar import constraint_grammar
from cdlm.server.protocol.formats import Constraint
from tests.grammars import EOS, VOCAB, make_json_tokenizer, way_to_end
from tests.schemas import schemas

VOCABULARY = Vocabulary(make_json_tokenizer(), VOCAB)
PAIRS = schemas(200, seed=20261129)


def grammar_of(schema: dict[str, Any]) -> str:
    return constraint_grammar(Constraint("json", schema, "response_format")).text


def walk(grammar: CompiledGrammar, limit: int, rng: random.Random) -> str | None:
    """A random answer of at most ``limit`` tokens, end token included, as the engine finalises it; if it ends."""
    matcher = AnswerMatcher(grammar, [EOS])
    while not matcher.ended and len(matcher.tokens) < limit:
        room = limit - len(matcher.tokens) - 1
        if forced := matcher.forced()[: room + 1]:
            for token in forced:
                matcher.take(token)
            continue
        token = rng.choice([int(token) for token in matcher.admitted().nonzero()[0]])
        if not matcher.closes_after(token, room):
            closing = matcher.closing(room + 1)
            token = token if closing is None else closing
        matcher.take(token)
    return b"".join(VOCABULARY.tokens[token] for token in matcher.tokens).decode() if matcher.ended else None


@pytest.mark.parametrize("start", range(0, len(PAIRS), 20))
def test_answers_end_where_a_valid_one_fits(start: int) -> None:
    """The bound is independent: about the tokens of a valid value that was made beside the schema."""
    late = []
    for place, (schema, value) in enumerate(PAIRS[start : start + 20], start):
        jsonschema.Draft202012Validator(schema).validate(value) if "\\p" not in str(schema) else None
        known = VOCABULARY.tokenise(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        text = grammar_of(schema)
        grammar = CompiledGrammar(text, VOCABULARY, 2000)
        assert grammar.fresh().validate_tokens(known) == len(known), (schema, value)
        # The search goes by bytes, so an answer of fewer tokens may be missed by a few.
        least = len(known) + 3 + len(known) // 8
        for limit in (least // 2, least, least + 4, 2 * least, 200):
            answer = walk(grammar, limit, random.Random(f"{place}/{limit}"))
            if answer is not None and "\\p" not in str(schema):
                jsonschema.Draft202012Validator(schema).validate(json.loads(answer))
            if answer is None and limit >= least:
                late.append((limit, least, schema, value))
    assert late == []


ANYWHERE = {
    "[A-Z].*[a-z].*[0-9]": "Aa1",
    r"\w+@\w+\.\w+": "1@1.1",
    "[À-ÿ]x": "Àx",
    r"\p{Han}": "一",
    r"\u{1F600}": "😀",
    r"\x{1F600}|\U0001F601\u00e9": "😀",
    "^[a-z&&[^aeiou]]{2}$": "bb",
    "(?:[a-f]{2}:){3}": "aa:aa:aa:",
    "(foo|x)+?y{3}": "xyyy",
}


@pytest.mark.parametrize("pattern", ANYWHERE)
def test_a_pattern_may_match_anywhere(pattern: str) -> None:
    """Text before a match and in it looks alike, and the search must not lose what was matched already."""
    grammar = CompiledGrammar(grammar_of({"type": "string", "pattern": pattern}), VOCABULARY, 200)
    value = json.dumps(ANYWHERE[pattern], ensure_ascii=False)
    assert len(grammar.end) <= len(value.encode())
    least = len(VOCABULARY.tokenise(value.encode())) + 3
    for limit in (least, 2 * least, 60):
        assert walk(grammar, limit, random.Random(limit)) is not None, limit


GRAMMARS = {
    "email": ('start: NAME "@" NAME\nNAME: /[a-z]+/', 4),
    "arithmetic": ('start: e\ne: t | e "+" t\nt: N | "(" e ")"\nN: /[0-9]+/', 2),
    "recursion": ('start: "(" start ")" | "[" start "," start "]" | "leaf"', 6),
    "contains": ("start: /.*foo.*bar/", 7),
    "sentence": (r"start: /(\w+ ){3,5}\w+\./", 9),
    "lines": (
        'start: line+\nline: "if " name ":\\n" body | name " = " name "\\n"\nbody: ("  " line)+\nname: /[a-z]+/',
        8,
    ),
    "nested": ('start: "{" start* "}" | "<" start ">" | "x"', 2),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GRAMMARS)
def test_other_grammars_end_too(name: str, seed: int) -> None:
    text, least = GRAMMARS[name]
    grammar = CompiledGrammar(text, VOCABULARY, 500)
    for limit in (least, least + 5, 60):
        assert walk(grammar, limit, random.Random(seed)) is not None, limit


def test_what_closes_follows_what_is_written() -> None:
    """Behind any beginning, be it long, an end is near."""
    schema = {
        "type": "object",
        "properties": {"file": {"type": "string", "pattern": r"^\S+\.csv$"}},
        "required": ["file"],
    }
    for written, end in (('{"file":"report', '.csv"}'), ('{"file":"report.cs', 'v"}'), ('{"file":"a.csv.gz', '.csv"}')):
        matcher = AnswerMatcher(CompiledGrammar(grammar_of(schema), VOCABULARY, 500), [EOS])
        matcher.restart(VOCABULARY.tokenise(written.encode()))
        path = way_to_end(matcher, 20)
        assert path is not None
        assert b"".join(VOCABULARY.tokens[token] for token in path).decode() == end


def test_the_way_to_an_end_is_a_function_of_the_tokens() -> None:
    grammar = CompiledGrammar(grammar_of(PAIRS[0][0]), VOCABULARY, 2000)
    rng, limit = random.Random(5), 40
    matcher = AnswerMatcher(grammar, [EOS])
    while not matcher.ended and len(matcher.tokens) < limit:
        room = limit - len(matcher.tokens) - 1
        again = AnswerMatcher(grammar, [EOS])
        again.restart(matcher.tokens)
        token = rng.choice([int(token) for token in matcher.admitted().nonzero()[0]])
        closes = matcher.closes_after(token, room)
        assert again.closes_after(token, room) == closes
        closing = matcher.closing(room + 1)
        assert again.closing(room + 1) == closing
        matcher.take(token if closes or closing is None else closing)
    assert matcher.ended


def test_texts_that_expressions_spell_out() -> None:
    def of(expression: str) -> list[bytes]:
        return spelled_texts(f"start: %json {json.dumps({'pattern': expression})}")

    assert of(r"^[0-9]+px$") == [b"1px", b"px"]
    assert of(r"^v?\d+\.\d+\.\d+$") == [b"1.1.1", b"v", b".", b"."]
    assert of(r"^\S+\.csv$") == [b"1.csv", b".csv"]
    assert of(r"^[^@\]-]+\t(ab|cd)*e{3}$") == [b"1\\teee", b"@", b"]", b"-", b"\\t", b"ab", b"cd", b"e"]
    assert of(r"\p{Greek}\u00e9\x41\/\"") == ['aéA/\\"'.encode(), 'éA/\\"'.encode()]
    assert spelled_texts('start: /a+bc/ "x/y/z" /[d]/') == [b"abc", b"a", b"bc", b"d"]


BROKEN = ["", "(", ")", "[", "a{", "{3}", "*", "a{99999999}", "\\", r"\U{110000}", "(" * 3000]


@pytest.mark.parametrize("expression", BROKEN)
def test_what_is_no_expression_has_no_example(expression: str) -> None:
    assert len(example(expression)) <= 2
