"""How an answer can be brought to an end that its grammar accepts, in few tokens."""

from collections.abc import Iterable

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from model.grammar.vocabulary import Vocabulary

# Of JSON: outside of a string, inside of one, and behind a backslash in one.
OUTSIDE, INSIDE, ESCAPED = range(3)
_QUOTE, _BACKSLASH = 0x22, 0x5C

# What is tried where several tokens are admitted, in this order. Outside of strings: what closes or goes on to what is
# still required, then digits, then the beginnings of other values.
_CLOSERS = [bytes([byte]) for byte in b"}],:"]
_DIGITS = [bytes([byte]) for byte in b"1234567890"]
_OPENERS = [bytes([byte]) for byte in b'."-tfn{[']
_IN_STRINGS = [b'"', *_DIGITS]


def shortest_close(matcher: LLMatcher, vocabulary: Vocabulary, state: int, limit: int) -> list[int] | None:
    """At most ``limit`` tokens after which the grammar accepts the end; ``None`` if none were found.

    A walk, not a search: it takes one token at a time in a fixed order, so what it finds can be followed, but
    something shorter may exist. ``matcher`` is used up. ``state`` tells where it stands, as ``string_state`` does.
    """
    path: list[int] = []
    while not matcher.is_accepting():
        tokens = matcher.compute_ff_tokens() or _next(matcher, vocabulary, state, len(path))
        path += tokens
        # Nothing that is admitted fails to be consumed but for a limit on the matcher's work.
        if not tokens or len(path) > limit or matcher.is_error():
            return None
        state = string_state(vocabulary, tokens, state)
        if matcher.try_consume_tokens(tokens) != len(tokens):
            return None
    return path if len(path) <= limit else None


def string_state(vocabulary: Vocabulary, tokens: list[int], state: int = OUTSIDE) -> int:
    """Where text that is JSON stands after ``tokens``, given where it stood before them."""
    for token in tokens:
        for byte in vocabulary.tokens[token]:
            state = next_state(state, byte)
    return state


def next_state(state: int, byte: int) -> int:
    """Where text that is JSON stands after one more ``byte``."""
    if state == ESCAPED:
        return INSIDE
    if byte == _QUOTE:
        return INSIDE if state == OUTSIDE else OUTSIDE
    return ESCAPED if byte == _BACKSLASH and state == INSIDE else state


def admitted_tokens(matcher: LLMatcher, size: int) -> NDArray[np.bool_]:
    """[size] which tokens may come next, the end not among them."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:size].astype(np.bool_)


def _next(matcher: LLMatcher, vocabulary: Vocabulary, state: int, place: int) -> list[int]:
    def first(texts: Iterable[bytes]) -> list[int]:
        return next(([token] for token in map(vocabulary.ids.get, texts) if token is not None and admits(token)), [])

    def admits(token: int) -> bool:
        return matcher.validate_tokens([token]) == 1

    if state == OUTSIDE:
        found = first(_CLOSERS) or _digit(matcher, vocabulary) or first(_OPENERS)
    else:
        found = first(_IN_STRINGS)
    if found:
        return found
    ids = np.flatnonzero(admitted_tokens(matcher, vocabulary.size))
    # Always the first would stay in a loop of a regular expression for ever.
    return [int(ids[place * 7919 % len(ids)])] if len(ids) else []


def _digit(matcher: LLMatcher, vocabulary: Vocabulary) -> list[int]:
    """A digit that may end its number, if there is one; else a zero, since bounds and multiples are round."""
    closers = [vocabulary.ids[text] for text in _CLOSERS if text in vocabulary.ids]
    admitted = []
    for text in _DIGITS:
        token = vocabulary.ids.get(text)
        ahead = matcher.deep_copy()
        if token is None or ahead.try_consume_tokens([token]) == 0:
            continue
        if ahead.is_accepting() or any(ahead.validate_tokens([closer]) for closer in closers):
            return [token]
        admitted.append(token)
    # A number that begins with a zero can only be a fraction.
    zero_first = len(admitted) == len(_DIGITS)
    return admitted[-1:] if zero_first else admitted[:1]
