"""Vocabularies as bytes, compiled grammars and their bounds, and the way to an end."""

import json
import random
import re
import time
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.grammar.compiled import MAX_GRAMMAR_BYTES, CompiledGrammar
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.json_text import ESCAPED, INSIDE, MAX_NUMBER, OUTSIDE, text_state
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from cdlm.model.tokens.token_bytes import TokenBytes
from tests.support.models.grammars import EOS, MASK, SCHEMAS, VOCAB, json_grammar, make_json_tokenizer, way_to_end


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(make_json_tokenizer(), VOCAB)


def sentencepiece_like() -> Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "the", "}", "{"]
    tokenizer = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def test_tokens_of_every_family_have_their_bytes() -> None:
    family = TokenBytes(sentencepiece_like())
    names = {piece: family(place) for piece, place in sentencepiece_like().get_vocab().items()}
    assert names["▁the"] == b" the"
    assert names["<0x0A>"] == b"\n"
    assert names["</s>"] == b"</s>"
    assert family(10_000) == b""
    bundled = Tokenizer.from_file(str(BUNDLED_STUDENT / "tokenizer.json"))
    as_bytes = TokenBytes(bundled)
    assert b"".join(as_bytes(ident) for ident in bundled.encode("Zoë 日").ids) == "Zoë 日".encode()


@pytest.mark.parametrize("text", ['{"name":"7"}', "42", "größe 日本", "", "<|endoftext|>", "  a"])
def test_forced_text_is_cut_into_tokens_of_the_same_bytes(text: str) -> None:
    """Also where the tokenizer changes text: the bundled one marks numbers, another puts a space in front."""
    bundled = Tokenizer.from_file(str(BUNDLED_STUDENT / "tokenizer.json"))
    for tokenizer in (make_json_tokenizer(), bundled, sentencepiece_like()):
        found = Vocabulary(tokenizer, 1100)
        ids = found.tokenize(text.encode())
        assert b"".join(found.tokens[ident] for ident in ids) == text.encode()
        assert not set(ids) & found._special


def test_part_of_a_character_is_cut_too(vocabulary: Vocabulary) -> None:
    ids = vocabulary.tokenize("日".encode()[:2])
    assert b"".join(vocabulary.tokens[ident] for ident in ids) == "日".encode()[:2]


def test_special_tokens_and_empty_rows_are_never_admitted(vocabulary: Vocabulary) -> None:
    matcher = AnswerMatcher(CompiledGrammar("start: /(?s:.*)/", vocabulary, 100), [EOS])
    mask = matcher.admitted()
    assert mask[EOS]
    assert not mask[MASK]
    assert not mask[[place for place, piece in enumerate(vocabulary.tokens) if not piece]].any()
    assert mask.sum() > 200


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_can_be_closed_from_anywhere(vocabulary: Vocabulary, name: str, seed: int) -> None:
    """A random walk, closed after every token: what comes out is valid."""
    rng = random.Random(seed)
    matcher = AnswerMatcher(CompiledGrammar(json_grammar(SCHEMAS[name]), vocabulary, 500), [EOS])
    for _ in range(40):
        close = way_to_end(matcher, 200)
        assert close is not None
        written = b"".join(vocabulary.tokens[token] for token in [*matcher.tokens, *close])
        jsonschema.validate(json.loads(written), SCHEMAS[name])
        choice = rng.choice([int(token) for token in matcher.admitted().nonzero()[0]])
        assert matcher.admits(choice)
        matcher.take(choice)
        if matcher.ended:
            break


def test_a_restarted_answer_stands_where_it_stood(vocabulary: Vocabulary) -> None:
    grammar = CompiledGrammar(json_grammar(SCHEMAS["nested"]), vocabulary, 500)
    matcher, rng = AnswerMatcher(grammar, [EOS]), random.Random(1)
    for _ in range(60):
        again = AnswerMatcher(grammar, [EOS])
        again.restart(matcher.tokens)
        assert (again.admitted() == matcher.admitted()).all()
        assert (again.forced(1000), again._state) == (matcher.forced(1000), matcher._state)
        matcher.take(rng.choice([int(token) for token in matcher.admitted().nonzero()[0]]))
        if matcher.ended:
            break
    with pytest.raises(GrammarError):
        matcher.restart([vocabulary.ids[b"}"]])


def test_strings_of_json_are_followed() -> None:
    def after(text: bytes) -> int:
        return text_state(text)

    assert [after(text) for text in (b'{"', b'{"a\\', b'{"a\\"', b'{"a\\"b"', b'"\\\\"')] == [
        INSIDE, ESCAPED, INSIDE, OUTSIDE, OUTSIDE,
    ]  # fmt: skip


NUMBERS: dict[str, tuple[dict[str, Any], int]] = {
    "integer": ({"type": "integer"}, MAX_NUMBER),
    "number": ({"type": "number"}, MAX_NUMBER + 2),  # What ends with a point or an exponent's sign needs a digit more.
    "small": ({"type": "number", "minimum": 0, "maximum": 1}, MAX_NUMBER + 2),
    "anything": ({}, MAX_NUMBER + 2),
    "array": ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}, MAX_NUMBER),
    "object": ({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, MAX_NUMBER + 2),
    "large": ({"enum": [10**40, 10**41 + 1]}, 42),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_end(vocabulary: Vocabulary, name: str, seed: int) -> None:
    """A walk that goes on with a number wherever it may: what it writes is valid, and its numbers are short."""
    (schema, longest), rng = NUMBERS[name], random.Random(seed)
    matcher = AnswerMatcher(CompiledGrammar(json_grammar(schema), vocabulary, 500), [EOS])
    heads = vocabulary.number_heads
    while not matcher.ended:
        admitted = [int(token) for token in matcher.admitted().nonzero()[0]]
        assert all(matcher.admits(token) for token in admitted)
        close = way_to_end(matcher, 200)
        digits = [token for token in admitted if heads[token] and matcher._state == OUTSIDE]
        assert close is not None
        matcher.take(rng.choice(digits) if digits else [*close, EOS][0])
    written = b"".join(vocabulary.tokens[token] for token in matcher.tokens).decode()
    jsonschema.validate(json.loads(written), schema)
    found = [len(number) for number in re.findall(r"[-0-9.eE+]{2,}", written)]
    assert found
    assert max(found) <= longest


@pytest.mark.parametrize(
    "text", ["start: /(?s:.*)/", 'start: /(?s:.*)/ | %json {"type": "integer"}', "start: /[0-9]+/"]
)
def test_text_may_have_long_numbers(vocabulary: Vocabulary, text: str) -> None:
    matcher = AnswerMatcher(CompiledGrammar(text, vocabulary, 500), [EOS])
    for token in vocabulary.tokenize(b"7" * 100):
        assert matcher.admits(token)
        assert matcher.admitted()[token]
        matcher.take(token)


def test_strings_may_have_long_numbers(vocabulary: Vocabulary) -> None:
    matcher = AnswerMatcher(CompiledGrammar(json_grammar({"type": "string"}), vocabulary, 500), [EOS])
    for token in vocabulary.tokenize(b'"' + b"7" * 100 + b'"'):
        assert matcher.admits(token)
        matcher.take(token)


def test_a_token_of_many_digits_is_no_way_around(vocabulary: Vocabulary) -> None:
    """Real vocabularies have tokens of several digits."""
    tokenizer = make_json_tokenizer()
    ids = [token for token in range(VOCAB) if len(vocabulary.tokens[token]) > 1 and vocabulary.number_heads[token] > 1]
    assert ids, tokenizer
    matcher = AnswerMatcher(CompiledGrammar(json_grammar({"type": "integer"}), vocabulary, 500), [EOS])
    matcher.restart(vocabulary.tokenize(b"7" * (MAX_NUMBER - 1)))
    for token in ids:
        assert not matcher.admits(token)
        assert not matcher.admitted()[token]
    assert matcher.admits(vocabulary.ids[b"7"])


SLOW: dict[str, dict[str, Any]] = {
    "nested repetition": {"type": "string", "pattern": "^(([a-z]{1,999}){1,999}[0-9]{1,999}){1,999}$"},
    "backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "many states": {"type": "string", "pattern": "(a|b)*a(a|b){400}"},
    "many names": {"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(2000)}},
    "long strings": {"type": "array", "items": {"type": "string", "maxLength": 100_000}, "minItems": 100},
    "itself": {"$defs": {"a": {"type": "object", "properties": {"n": {"$ref": "#/$defs/a"}}, "required": ["n"]}},
               "$ref": "#/$defs/a"},
    "alternatives": {"anyOf": [{"type": "object", "properties": {f"k{i}": {"const": j} for i in range(20)}}
                               for j in range(60)]},
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_whatever_is_asked_the_work_is_bounded(vocabulary: Vocabulary, name: str) -> None:
    start = time.process_time()
    try:
        matcher = AnswerMatcher(CompiledGrammar(json_grammar(SLOW[name]), vocabulary, 2048), [EOS])
        for room in range(100, 80, -1):
            token = int(matcher.admitted().nonzero()[0][0])
            matcher.closes_after(token, room)
            matcher.take(token)
            if matcher.ended:
                break
    except GrammarError:
        pass
    assert time.process_time() - start < 8


def test_large_grammars_are_refused_unread(vocabulary: Vocabulary) -> None:
    with pytest.raises(GrammarError, match="larger than"):
        CompiledGrammar("start: " + "x" * MAX_GRAMMAR_BYTES, vocabulary, 100)
