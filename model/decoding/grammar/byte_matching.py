"""Bytes as a vocabulary that grammars are matched with."""

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

# A mask over all bytes, and all pairs of these, tells what each byte leads to.
LETTERS = list(range(0x20, 0x7F))
PLACE = {byte: place for place, byte in enumerate(LETTERS)}
PAIRS = slice(256, 256 + len(LETTERS) ** 2)
END = PAIRS.stop


class _Bytes:
    """Bytes as a tokenizer: the ids of single ones are their values."""

    bos_token_id = None

    def __init__(self) -> None:
        pairs = [bytes([first, second]) for first in LETTERS for second in LETTERS]
        self.tokens = [*(bytes([byte]) for byte in range(256)), *pairs, b"<end of the text>"]
        self.eos_token_id, self.special_token_ids = END, [END]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=END + 1, eos_token=END, slices=[])


def admits(mask: bytes, byte: int) -> bool:
    """Whether ``mask``, of a matcher over ``BYTES``, lets ``byte`` come next."""
    return bool(mask[byte >> 3] >> (byte & 7) & 1)


def ends_with(matcher: LLMatcher, text: bytes) -> bool:
    """Whether the grammar of ``matcher``, which is over ``BYTES``, accepts the end behind ``text``."""
    tail = [*text, END]
    return matcher.validate_tokens(tail) == len(tail)
