"""A tokenizer's vocabulary as bytes, in the form that grammars are matched with."""

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
    """The ``size`` tokens that the model scores.

    Attributes:
        size: tokens of the model; ids the tokenizer has no token for can never be admitted.
        tokens: [size] bytes of each.
        matching: the same for the matcher, with one more token that stands for the end of the text: which of the
            model's tokens end an answer is a matter of the request.
    """

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.size = size
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # Literal special tokens inside text are ordinary characters; nothing is cut off or filled up.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        as_bytes = TokenBytes(tokenizer)
        self.tokens = [as_bytes(ident) for ident in range(size)]
        special = [ident for ident in as_bytes.special.values() if ident < size]
        self._special = frozenset(special)
        source = _Source([*self.tokens, b"<end of the text>"], size, [*special, size], self.tokenize)
        self.matching = LLTokenizer(
            TokenizerWrapper(source), n_vocab=size + 1, eos_token=size, slices=LLTokenizer.json_slices()
        )

    def tokenize(self, text: bytes) -> list[int]:
        """Ids whose bytes are exactly ``text``: as the tokenizer cuts it, or where it changes text, longest first."""
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
                return ids  # The vocabulary cannot write this text; what follows is then not forced.
        return ids

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Which token, the first of several, stands for some bytes; without special tokens."""
        found: dict[bytes, int] = {}
        for ident, piece in enumerate(self.tokens):
            if piece and ident not in self._special:
                found.setdefault(piece, ident)
        return found

    @cached_property
    def letters(self) -> frozenset[int]:
        """The bytes that tokens stand for alone."""
        return frozenset(text[0] for text in self.ids if len(text) == 1)

    def pieces(self, text: bytes, start: int) -> list[tuple[int, int]]:
        """The tokens that ``text`` goes on with at ``start``, and how many bytes each has; the longest first."""
        found = []
        for length in self._lengths.get(text[start : start + 2], ()):
            token = self.ids.get(text[start : start + length])
            if token is not None and start + length <= len(text):
                found.append((token, length))
        single = self.ids.get(text[start : start + 1])
        return found if single is None else [*found, (single, 1)]

    @cached_property
    def _lengths(self) -> dict[bytes, list[int]]:
        """By the first two bytes, how long the tokens are that begin with them; the longest first."""
        found: dict[bytes, set[int]] = {}
        for text in self.ids:
            if len(text) > 1:
                found.setdefault(text[:2], set()).add(len(text))
        return {head: sorted(lengths, reverse=True) for head, lengths in found.items()}

    def count(self, text: bytes) -> int:
        """About how many tokens ``text`` has."""
        try:
            return len(self.matching.greedy_tokenize(text.decode()))
        except UnicodeDecodeError:
            return len(text)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token that is text."""
        return max(map(len, self.ids), default=1)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[size] how many bytes each token has; 0 for those that are no text, and all but the first of equal ones."""
        lengths = np.zeros(self.size, dtype=np.int64)
        lengths[list(self.ids.values())] = [len(text) for text in self.ids]
        return lengths

    @cached_property
    def longest_first(self) -> NDArray[np.int64]:
        """The tokens that have a length, the longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        return order[self.lengths[order] > 0]

    @cached_property
    def with_signs(self) -> NDArray[np.bool_]:
        """[size] whether a token holds a sign of JSON's own, such as a quote or a bracket."""
        return np.array([not set(_SIGNS).isdisjoint(text) for text in self.tokens], dtype=np.bool_)

    @cached_property
    def number_heads(self) -> NDArray[np.int64]:
        """[size] how many characters of a JSON number each token begins with."""
        lengths = [len(piece) - len(piece.lstrip(NUMBER_CHARACTERS)) for piece in self.tokens]
        return np.array(lengths, dtype=np.int64)

    @cached_property
    def longest_head(self) -> int:
        """The largest of ``number_heads``."""
        return int(self.number_heads.max(initial=0))


class _Source:
    """What ``TokenizerWrapper`` asks of a tokenizer."""

    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], end: int, special: list[int], tokenize: Callable[[bytes], list[int]]
    ) -> None:
        self.tokens, self.eos_token_id, self.special_token_ids = tokens, end, special
        self._tokenize = tokenize

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenize(text)
