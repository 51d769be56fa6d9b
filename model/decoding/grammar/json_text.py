"""Where text that is JSON stands, and how long its numbers may grow.

JSON bounds no number, and a model that is unsure of a digit is as unsure of the next one: without a bound it may
write digits up to its last token.
"""

import numpy as np
from numpy.typing import NDArray

from cdlm.model.decoding.grammar.vocabulary import NUMBER_CHARACTERS, Vocabulary

# Outside of a string, inside of one, or behind a backslash in one.
OUTSIDE, INSIDE, ESCAPED = range(3)
_QUOTE, _BACKSLASH = 0x22, 0x5C
# Characters: enough for every 64-bit float and integer, such as -1.7976931348623157e+308.
MAX_NUMBER = 24


def text_state(text: bytes, state: int = OUTSIDE) -> int:
    """Where JSON stands after ``text``, given where it stood before."""
    for byte in text:
        state = next_state(state, byte)
    return state


def next_state(state: int, byte: int) -> int:
    """Where JSON stands after one more ``byte``."""
    if state == ESCAPED:
        return INSIDE
    if byte == _QUOTE:
        return INSIDE if state == OUTSIDE else OUTSIDE
    return ESCAPED if byte == _BACKSLASH and state == INSIDE else state


def number_length(vocabulary: Vocabulary, tokens: list[int], state: int = OUTSIDE, length: int = 0) -> int:
    """Characters of the number that text ends with after ``tokens``, given where it stood before them.

    The last letter of ``true`` and ``false`` counts too; nothing of a number can follow it.
    """
    for token in tokens:
        for byte in vocabulary.tokens[token]:
            length = length + 1 if state == OUTSIDE and byte in NUMBER_CHARACTERS else 0
            state = next_state(state, byte)
    return length


def without_long_numbers(
    admitted: NDArray[np.bool_], vocabulary: Vocabulary, length: int, may_end: bool
) -> NDArray[np.bool_]:
    """[size] what is left of ``admitted`` when a number of ``length`` characters must not exceed the bound.

    A number that cannot end there, as a schema may have it, goes on until it can. ``may_end`` tells whether the whole
    answer may.
    """
    heads = vocabulary.number_heads
    long = admitted & (heads > 0) & (length + heads > MAX_NUMBER)
    if not long.any():
        return admitted
    # Text that is no JSON may have a space behind a digit, and any number of digits.
    space = vocabulary.ids.get(b" ")
    if space is not None and admitted[space]:
        return admitted
    rest = admitted & ~long
    return rest if may_end or rest.any() else admitted
