"""Tiny random checkpoints that can write JSON, schemas, and a stateless grammar for the oracle."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.endings.closing import Closing
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.grammar.vocabulary import Vocabulary
from tests.support.models.checkpoints import build_checkpoint

MASK, EOS, OTHER_EOS = 0, 1, 2
VOCAB = 320  # More than the tokenizer has: the rows beyond are no tokens.

_CORPUS = [
    '{"name":"Ann","age":12,"tags":["a","b"],"ok":true,"none":null}',
    '{"name":"Zoë","city":"Köln","items":[{"id":1,"price":2.5},{"id":20}]}',
] * 8

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {"type": "object"},
    "nested": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "place": {"type": "object", "properties": {"at": POINT, "city": {"type": "string", "maxLength": 5}}},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        },
        "required": ["name", "place"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": POINT, "minItems": 1},
    "enum": {"enum": ["red", "green", "größer", 7, None, True, {"a": [1]}]},
    "numbers": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 3, "maximum": 120},
            "ratio": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "even": {"type": "integer", "multipleOf": 2},
        },
        "required": ["age", "ratio", "even"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"]}, "b": {"type": "boolean"}, "c": {"const": "ok"}},
        "additionalProperties": False,
    },
    "unicode": {
        "type": "object",
        "properties": {"größe": {"type": "string", "minLength": 2}, "日本": {"enum": ["東京", "大阪"]}},
        "required": ["größe", "日本"],
        "additionalProperties": False,
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "choice": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "maxItems": 4}, POINT]},
    "recursive": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
    "repetitions": {
        "type": "object",
        "properties": {
            "mail": {"type": "string", "format": "email"},
            "size": {"type": "string", "pattern": "^[0-9]+px$"},
        },
        "required": ["mail", "size"],
        "additionalProperties": False,
    },
}


def make_json_tokenizer() -> Tokenizer:
    """A byte-level BPE with merges across JSON punctuation."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 12,
        special_tokens=["<|mask|>", "<|endoftext|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=6,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def build_json_checkpoint(directory: Path, axis: str = "plain", seed: int = 0, **manifest: Any) -> Path:
    """Writes a random checkpoint with a tokenizer."""
    values = {"mask_token_id": MASK, "stop_token_ids": (EOS,)} | manifest
    build_checkpoint(directory, axis, seed, vocab_size=VOCAB, **values)
    make_json_tokenizer().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def json_grammar(schema: dict[str, Any]) -> str:
    """The grammar of compact JSON that ``schema`` allows."""
    return "start: %json " + json.dumps(schema | {"x-guidance": {"whitespace_flexible": False}})


class FreshGrammar:
    """Recomputes every answer from the beginning of the text, with a new matcher."""

    def __init__(self, text: str, vocabulary: Vocabulary, stops: list[int], max_tokens: int) -> None:
        self.compiled = CompiledGrammar(text, vocabulary, max_tokens)
        self.vocabulary, self.stops = vocabulary, stops

    def _after(self, written: list[int]) -> AnswerMatcher:
        matcher = AnswerMatcher(self.compiled, self.stops)
        matcher.restart(written)
        return matcher

    def forced(self, written: list[int]) -> list[int]:
        return self._after(written).forced(self.compiled.horizon + 1)

    def admitted(self, written: list[int]) -> set[int]:
        return {int(token) for token in self._after(written).admitted().nonzero()[0]}

    def closes(self, written: list[int], room: int) -> list[int] | None:
        if room >= self.compiled.horizon:
            return []
        try:
            matcher = self._after(written)
        except GrammarError:  # The last token is not admitted.
            return None
        path = way_to_end(matcher, room)
        if path is None:
            closing = Closing(self.compiled, self.stops, written, len(written) + room)
            return [] if closing.in_time else None
        return [*path, self.stops[0]]


def way_to_end(matcher: AnswerMatcher, room: int) -> list[int] | None:
    """Searches tokens that end an answer, at most ``room`` of them, end token included."""
    closing = Closing(matcher.grammar, matcher.stop_ids, matcher.tokens, len(matcher.tokens) + room)
    path: list[int] = []
    while (token := closing.next()) is not None and token not in matcher.stop_ids:
        closing.take(token)
        path.append(token)
    return None if token is None else path
