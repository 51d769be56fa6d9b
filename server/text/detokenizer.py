"""Incremental decoding of token ids."""

from collections.abc import Callable, Container, Sequence


class Detokenizer:
    """Decodes ids incrementally; the pieces joined equal the text of all ids.

    Holds back an incomplete UTF-8 sequence at the end until it is complete, or until ``flush``.

    Args:
        decode: decodes a list of ids.
        context: ids before the text, since some decoders treat the first id differently.
        silent: ids that never have text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        context: Sequence[int] = (),
        silent: Container[int] = (),
    ) -> None:
        self._decode = decode
        self._silent = silent
        # Ids since the second to last clean border.
        self._window = list(context)
        self._border = len(self._window)
        self._sent = len(decode(self._window)) if context else 0

    def feed(self, ids: Sequence[int]) -> str:
        """Adds ids; returns the text that is now certain."""
        self._window += [ident for ident in ids if ident not in self._silent]
        text = self._decode(self._window)
        certain = text.rstrip("\ufffd")
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        # Only ids with text can serve as context for later ones.
        if certain == text and piece and (length := len(self._decode(self._window[self._border :]))):
            self._window = self._window[self._border :]
            self._border = len(self._window)
            self._sent = length
        return piece

    def flush(self) -> str:
        """Returns the text that was held back; call it at the end."""
        piece = self._decode(self._window)[self._sent :]
        self._sent += len(piece)
        return piece
