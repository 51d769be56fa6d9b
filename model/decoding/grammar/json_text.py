"""Tracks whether JSON text is inside a string, and limits the length of numbers.

JSON does not limit numbers. A model that is unsure of a digit is as unsure of the next one, and may write digits up to
its last token.
"""

import numpy as np
from numpy.typing import NDArray

from cdlm.model.decoding.grammar.vocabulary import NUMBER_CHARACTERS, Vocabulary

# Outside a string, inside one, or after a backslash in one.
OUTSIDE, INSIDE, ESCAPED = range(3)
_QUOTE, _BACKSLASH = 0x22, 0x5C
# Characters: enough for every 64-bit float and integer, for example -1.7976931348623157e+308.
MAX_NUMBER = 24


def text_state(text: bytes, state: int = OUTSIDE) -> int:
    """JSON's state after ``text``, from ``state`` before it."""
    for byte in text:
        state = next_state(state, byte)
    return state


def next_state(state: int, byte: int) -> int:
    """JSON's state after one more ``byte``."""
    if state == ESCAPED:
        return INSIDE
    if byte == _QUOTE:
        return INSIDE if state == OUTSIDE else OUTSIDE
    return ESCAPED if byte == _BACKSLASH and state == INSIDE else state


def number_length(vocabulary: Vocabulary, tokens: list[int], state: int = OUTSIDE, length: int = 0) -> int:
    """Length in characters of the number at the end of the text after ``tokens``; 0 if it does not end with one.

    ``state`` and ``length`` describe the text before. The ``e`` of ``true`` and ``false`` counts as 1, without effect:
    no digit can follow.
    """
    for token in tokens:
        for byte in vocabulary.tokens[token]:
            length = length + 1 if state == OUTSIDE and byte in NUMBER_CHARACTERS else 0
            state = next_state(state, byte)
    return length


def without_long_numbers(
    admitted: NDArray[np.bool_], vocabulary: Vocabulary, length: int, may_end: bool
) -> NDArray[np.bool_]:
    """[size] bool: ``admitted`` without tokens that extend a number of ``length`` characters beyond ``MAX_NUMBER``.

    If a schema does not let the number end here, it may continue. ``may_end`` says whether the whole answer may end.
    """
    heads = vocabulary.number_heads
    long = admitted & (heads > 0) & (length + heads > MAX_NUMBER)
    if not long.any():
        return admitted
    # Outside JSON, a space may follow a digit, and numbers have no limit.
    space = vocabulary.ids.get(b" ")
    if space is not None and admitted[space]:
        return admitted
    rest = admitted & ~long
    return rest if may_end or rest.any() else admitted
