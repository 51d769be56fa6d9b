"""A tokenizer's vocabulary as bytes, for matching grammars."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cdlm.model.tokens.token_bytes import TokenBytes

NUMBER_CHARACTERS = b"0123456789.eE+-"
_SIGNS = b'"{}[],:'


class Vocabulary:
    """The tokens that the model scores, as bytes.

    Attributes:
        size: number of logits; ids without a token in the tokenizer are never admitted.
        tokens: [size] bytes of each token.
        matching: the vocabulary for llguidance, plus one token for the end of the text, since the request says which
            tokens of the model end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.size = size
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # Names of special tokens in text are ordinary characters; no truncation, no padding.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        as_bytes = TokenBytes(tokenizer)
        self.tokens = [as_bytes(ident) for ident in range(size)]
        special = [ident for ident in as_bytes.special.values() if ident < size]
        self._special = frozenset(special)
        source = TokenSource([*self.tokens, b"<end of the text>"], size, [*special, size], self.tokenize)
        self.matching = LLTokenizer(
            TokenizerWrapper(source), n_vocab=size + 1, eos_token=size, slices=LLTokenizer.json_slices()
        )

    def tokenize(self, text: bytes) -> list[int]:
        """Ids whose bytes are exactly ``text``: the tokenizer's, or the longest first if the tokenizer changes text."""
        try:
            ids: list[int] = self._tokenizer.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            ids = []
        if all(ident < self.size for ident in ids) and b"".join(self.tokens[ident] for ident in ids) == text:
            return ids
        ids, start = [], 0
        while start < len(text):
            for end in range(min(len(text), start + self.longest), start, -1):
                if (found := self.ids.get(text[start:end])) is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return ids  # No token writes the rest; it is then not forced.
        return ids

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Bytes -> token id, the first of equal ones; without special tokens."""
        found: dict[bytes, int] = {}
        for ident, piece in enumerate(self.tokens):
            if piece and ident not in self._special:
                found.setdefault(piece, ident)
        return found

    @cached_property
    def letters(self) -> frozenset[int]:
        """The bytes that are tokens by themselves."""
        return frozenset(text[0] for text in self.ids if len(text) == 1)

    def pieces(self, text: bytes, start: int) -> list[tuple[int, int]]:
        """(token, its length in bytes) for each token that ``text`` continues with at ``start``; longest first."""
        found = []
        for length in self._lengths.get(text[start : start + 2], ()):
            token = self.ids.get(text[start : start + length])
            if token is not None and start + length <= len(text):
                found.append((token, length))
        single = self.ids.get(text[start : start + 1])
        return found if single is None else [*found, (single, 1)]

    @cached_property
    def _lengths(self) -> dict[bytes, list[int]]:
        """First two bytes -> lengths of the tokens that begin with them, longest first."""
        found: dict[bytes, set[int]] = {}
        for text in self.ids:
            if len(text) > 1:
                found.setdefault(text[:2], set()).add(len(text))
        return {head: sorted(lengths, reverse=True) for head, lengths in found.items()}

    def count(self, text: bytes) -> int:
        """Estimates the number of tokens of ``text``."""
        try:
            return len(self.matching.greedy_tokenize(text.decode()))
        except UnicodeDecodeError:
            return len(text)

    @cached_property
    def longest(self) -> int:
        """Length in bytes of the longest text token."""
        return max(map(len, self.ids), default=1)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[size] int64: bytes per token; 0 for tokens that are not text and for duplicates."""
        lengths = np.zeros(self.size, dtype=np.int64)
        lengths[list(self.ids.values())] = [len(text) for text in self.ids]
        return lengths

    @cached_property
    def longest_first(self) -> NDArray[np.int64]:
        """Ids of the tokens with a length above 0, longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        return order[self.lengths[order] > 0]

    @cached_property
    def with_signs(self) -> NDArray[np.bool_]:
        """[size] bool: whether a token contains JSON punctuation, for example a quote or a bracket."""
        return np.array([not set(_SIGNS).isdisjoint(text) for text in self.tokens], dtype=np.bool_)

    @cached_property
    def number_heads(self) -> NDArray[np.int64]:
        """[size] int64: how many characters of a JSON number each token begins with."""
        lengths = [len(piece) - len(piece.lstrip(NUMBER_CHARACTERS)) for piece in self.tokens]
        return np.array(lengths, dtype=np.int64)

    @cached_property
    def longest_head(self) -> int:
        """The largest of ``number_heads``."""
        return int(self.number_heads.max(initial=0))


class TokenSource:
    """The interface that llguidance's ``TokenizerWrapper`` expects of a tokenizer."""

    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], end: int, special: list[int], tokenize: Callable[[bytes], list[int]]
    ) -> None:
        self.tokens, self.eos_token_id, self.special_token_ids = tokens, end, special
        self._tokenize = tokenize

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenize(text)
