"""Ids to text, as they come."""

from collections.abc import Callable, Container, Sequence


class Detokenizer:
    """Turns ids into text as they come; the pieces joined equal the text of all ids.

    A trailing incomplete UTF-8 sequence is held back until the ids that complete it, or ``flush``.

    Args:
        decode: the text of ids.
        context: ids before the text; some decoders treat the first id of all differently.
        silent: ids that are no text wherever they stand.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        context: Sequence[int] = (),
        silent: Container[int] = (),
    ) -> None:
        self._decode = decode
        self._silent = silent
        # Ids since the last clean border but one.
        self._window = list(context)
        self._border = len(self._window)
        self._sent = len(decode(self._window)) if context else 0

    def feed(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` make certain."""
        self._window += [ident for ident in ids if ident not in self._silent]
        text = self._decode(self._window)
        certain = text.rstrip("\ufffd")
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        # Only ids with a text of their own can stand for all that came before them.
        if certain == text and piece and (length := len(self._decode(self._window[self._border :]))):
            self._window = self._window[self._border :]
            self._border = len(self._window)
            self._sent = length
        return piece

    def flush(self) -> str:
        """What was held back; the end of the text."""
        piece = self._decode(self._window)[self._sent :]
        self._sent += len(piece)
        return piece
