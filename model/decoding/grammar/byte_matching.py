"""Matches grammars byte by byte: a vocabulary of the 256 bytes and of pairs of printable ones."""

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from cdlm.model.decoding.grammar.vocabulary import TokenSource

# Printable ASCII. A bit mask over bytes and pairs of these shows what may follow each byte.
LETTERS = list(range(0x20, 0x7F))
PLACE = {byte: place for place, byte in enumerate(LETTERS)}
PAIRS = slice(256, 256 + len(LETTERS) ** 2)
END = PAIRS.stop


_PAIRS = [bytes([first, second]) for first in LETTERS for second in LETTERS]
_TOKENS = [*(bytes([byte]) for byte in range(256)), *_PAIRS, b"<end of the text>"]
# The id of a byte is its value: ``list`` splits a text.
_SOURCE = TokenSource(_TOKENS, END, [END], list)
BYTES = LLTokenizer(TokenizerWrapper(_SOURCE), n_vocab=END + 1, eos_token=END, slices=[])


def admits(mask: bytes, byte: int) -> bool:
    """Whether ``mask``, a bit mask from a matcher over ``BYTES``, admits ``byte`` next."""
    return bool(mask[byte >> 3] >> (byte & 7) & 1)


def ends_with(matcher: LLMatcher, text: bytes) -> bool:
    """Whether the grammar of ``matcher``, a matcher over ``BYTES``, accepts the end after ``text``."""
    tail = [*text, END]
    return matcher.validate_tokens(tail) == len(tail)
