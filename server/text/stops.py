"""Stop strings in streamed text."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until the first stop string completes; passes the stop string itself only with ``keep``.

    The stop string that completes first wins; of two that complete together, the longer one. Holds back only text that
    may become a stop string.
    """

    def __init__(self, stops: Sequence[str], *, keep: bool = False) -> None:
        assert all(stops)
        self._keep = keep
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Adds text; returns the text that can be sent. Sets ``matched`` when a stop string completes."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            end, start = min(found)
            self.matched = text[start:end]
            return text[: end if self._keep else start]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Returns the text that was held back; call it at the end."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ends ``text``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
