"""The bytes of each token of a tokenizer."""

import re

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")  # The names of bytes in tokenizers with byte fallback.
_SPACE_SIGN = "\u2581"  # Stands for a space in vocabularies of the SentencePiece family.


class TokenBytes:
    """Maps a token id to its bytes, which may be part of a UTF-8 character.

    Attributes:
        added: id -> text of added tokens.
        special: text -> id of the special ones among the added tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.added = {ident: token.content for ident, token in added.items()}
        self.special = {token.content: ident for ident, token in added.items() if token.special}
        decoder = tokenizer.to_str().partition('"decoder"')[2].partition('"model"')[0]
        self._letters = _byte_letters() if '"ByteLevel"' in decoder else {}
        self._space = _SPACE_SIGN if _SPACE_SIGN in decoder or "\\u2581" in decoder else None

    def __call__(self, ident: int) -> bytes:
        """The bytes of token ``ident``; the name's bytes for a special token; empty for an unknown id."""
        name = self._tokenizer.id_to_token(ident)
        if name is None:  # An id without a token.
            return b""
        if ident in self.added:
            return self.added[ident].encode()
        if self._letters and all(letter in self._letters for letter in name):
            return bytes(self._letters[letter] for letter in name)
        if match := _BYTE_TOKEN.fullmatch(name):
            return bytes([int(match[1], 16)])
        if self._space is not None:
            return name.replace(self._space, " ").encode()
        return self._tokenizer.decode([ident], skip_special_tokens=False).encode()


def _byte_letters() -> dict[str, int]:
    """Letter -> byte of byte-level vocabularies; printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
