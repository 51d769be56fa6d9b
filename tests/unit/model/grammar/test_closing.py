"""Answers end in time: whatever is written at random, a valid one comes out where one fits."""

import json
import random
from typing import Any

import jsonschema
import pytest

from cdlm.model.decoding.grammar.byte_matching import ends_with
from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.endings.ending import NEVER, Speller
from cdlm.model.decoding.grammar.examples import example
from cdlm.model.decoding.grammar.literals import spelled_texts
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.server.openai.forms.answer_grammar import constraint_grammar
from cdlm.server.openai.protocol.formats import Constraint
from tests.support.matrix import some
from tests.support.models.grammars import EOS, VOCAB, make_json_tokenizer, way_to_end
from tests.support.models.schemas import schemas

VOCABULARY = Vocabulary(make_json_tokenizer(), VOCAB)
PAIRS = schemas(200, seed=20261129)


def grammar_of(schema: dict[str, Any]) -> str:
    return constraint_grammar(Constraint("json", schema, "response_format")).text


def walk(grammar: CompiledGrammar, limit: int, rng: random.Random, prefers: tuple[bytes, ...] = ()) -> str | None:
    """A random answer of at most ``limit`` tokens, end token included, as the engine finalizes it; if it ends.

    What it ``prefers`` is written wherever it is admitted.
    """
    preferred = [VOCABULARY.ids[text] for text in prefers]
    matcher = AnswerMatcher(grammar, [EOS])
    while not matcher.ended and len(matcher.tokens) < limit:
        room = limit - len(matcher.tokens) - 1
        if forced := matcher.forced(room + 1)[: room + 1]:
            for token in forced:
                matcher.take(token)
            continue
        mask = matcher.admitted()
        token = rng.choice([token for token in preferred if mask[token]] or mask.nonzero()[0].tolist())
        if not matcher.closes_after(token, room):
            closing = matcher.closing(room + 1)
            token = token if closing is None else closing
        matcher.take(token)
    return b"".join(VOCABULARY.tokens[token] for token in matcher.tokens).decode() if matcher.ended else None


@pytest.mark.parametrize("start", some(range(0, len(PAIRS), 20), every=10))
def test_answers_end_where_one_fits(start: int) -> None:
    """From the tokens of the shortest answer that was found on, whatever is written; that has no more than another.

    The other one is a valid value that was made beside the schema.
    """
    late = []
    for place, (schema, value) in enumerate(PAIRS[start : start + 20], start):
        plain = "\\p" not in str(schema)  # Python's expressions have no classes of Unicode.
        jsonschema.Draft202012Validator(schema).validate(value) if plain else None
        known = Speller(VOCABULARY, [EOS]).ending(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
        grammar = CompiledGrammar(grammar_of(schema), VOCABULARY, 2000)
        assert ends_with(grammar.over_bytes(), known.text), (schema, value)
        least = grammar.needed(1)
        assert least <= known.tokens + 1, (schema, value)
        for limit in (least - 1, least, least, grammar.least, least + 1, 2 * least, *([200] if place % 4 == 0 else [])):
            answer = walk(grammar, limit, random.Random(f"{place}/{limit}"))
            if answer is not None and plain:
                jsonschema.Draft202012Validator(schema).validate(json.loads(answer))
            if (answer is None) != (limit < least):
                late.append((limit, least, schema, answer))
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
    for limit in (grammar.needed(1), grammar.least, 2 * grammar.least, 60):
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


OPTIONAL = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "all": {
            "type": "object",
            "properties": {f"property_{number}": {"type": "integer"} for number in range(30)},
            "required": [f"property_{number}" for number in range(30)],
        },
    },
}
TREE = {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "object", "additionalProperties": {"$ref": "#"}}]}


@pytest.mark.parametrize("limit", [20, 60, 150, 300, 600])
@pytest.mark.parametrize("schema", [OPTIONAL, TREE])
def test_what_would_take_too_long_to_close_is_not_opened(schema: dict[str, Any], limit: int) -> None:
    """Whoever opens all that can be opened ends in time all the same, be the limit far when it begins."""
    grammar = CompiledGrammar(grammar_of(schema), VOCABULARY, 2000)
    rng = random.Random(limit)
    assert walk(grammar, limit, rng, prefers=(b"[", b"{", b'{"', b",", b'"')) is not None


def test_forced_text_is_cut_in_fewer_tokens_where_the_limit_needs_it() -> None:
    """Otherwise as the tokenizer cuts it."""
    rng, found = random.Random(1), 0
    texts = [text.decode() for text in VOCABULARY.ids if len(text) > 1 and text.isascii()]
    for _ in range(1500):
        text = "".join(rng.choices(texts, k=3))
        usual, fewest = VOCABULARY.tokenize(text.encode()), Speller(VOCABULARY, []).ending(text.encode()).tokens
        if fewest < len(usual):
            grammar, found = CompiledGrammar(f"start: {json.dumps(text)}", VOCABULARY, 100), found + 1
            for limit in range(fewest + 1, len(usual) + 3):
                matcher = AnswerMatcher(grammar, [EOS])
                while forced := matcher.forced(limit - len(matcher.tokens)):
                    for token in forced:
                        matcher.take(token)
                assert matcher.admits(EOS)
                assert len(matcher.tokens) < limit
                assert (matcher.tokens == usual) == (limit > len(usual))
    assert found > 5


def test_the_fewest_tokens_of_a_text() -> None:
    """Counted by trying all ways to cut it; a part of it that is known already makes no difference."""
    rng, speller = random.Random(3), Speller(VOCABULARY, [EOS, VOCABULARY.ids[b'":']])

    def fewest(text: bytes) -> int:
        ways = {0: 0}
        for start in range(len(text)):
            for end in range(start + 1, len(text) + 1):
                token = VOCABULARY.ids.get(text[start:end])
                if start in ways and token is not None and text[start:end] != b'":':
                    ways[end] = min(ways.get(end, NEVER), ways[start] + 1)
        return ways[len(text)]

    known = speller.ending(b"")
    for _ in range(200):
        text = b"".join(rng.choice(list(VOCABULARY.ids)) for _ in range(rng.randrange(6)))
        known = speller.ending(text + known.text[rng.randrange(len(known.text) + 1) :][:12], known)
        assert known.costs == [fewest(known.text[len(known.text) - length :]) for length in range(len(known.text) + 1)]
        rest, path = known, list[int]()
        while rest.text:
            path.append(speller.first(rest))
            rest = rest.behind(len(VOCABULARY.tokens[path[-1]]))
        assert b"".join(VOCABULARY.tokens[token] for token in path) == known.text
        assert len(path) == known.tokens


def test_what_closes_follows_what_is_written() -> None:
    """Behind any beginning, be it long, an end is near."""
    schema = {
        "type": "object",
        "properties": {"file": {"type": "string", "pattern": r"^\S+\.csv$"}},
        "required": ["file"],
    }
    for written, end in (('{"file":"report', '.csv"}'), ('{"file":"report.cs', 'v"}'), ('{"file":"a.csv.gz', '.csv"}')):
        matcher = AnswerMatcher(CompiledGrammar(grammar_of(schema), VOCABULARY, 500), [EOS])
        matcher.restart(VOCABULARY.tokenize(written.encode()))
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
