"""Matches grammars byte by byte: a vocabulary of the 256 bytes and of pairs of printable ones."""

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

# Printable ASCII. A bit mask over bytes and pairs of these shows what may follow each byte.
LETTERS = list(range(0x20, 0x7F))
PLACE = {byte: place for place, byte in enumerate(LETTERS)}
PAIRS = slice(256, 256 + len(LETTERS) ** 2)
END = PAIRS.stop


class _Bytes:
    """A tokenizer that splits text into bytes; the id of a byte is its value."""

    bos_token_id = None

    def __init__(self) -> None:
        pairs = [bytes([first, second]) for first in LETTERS for second in LETTERS]
        self.tokens = [*(bytes([byte]) for byte in range(256)), *pairs, b"<end of the text>"]
        self.eos_token_id, self.special_token_ids = END, [END]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, eos_token=END, slices=[])


def admits(mask: bytes, byte: int) -> bool:
    """Whether ``mask``, a bit mask from a matcher over ``BYTES``, admits ``byte`` next."""
    return bool(mask[byte >> 3] >> (byte & 7) & 1)


def ends_with(matcher: LLMatcher, text: bytes) -> bool:
    """Whether the grammar of ``matcher``, a matcher over ``BYTES``, accepts the end after ``text``."""
    tail = [*text, END]
    return matcher.validate_tokens(tail) == len(tail)
