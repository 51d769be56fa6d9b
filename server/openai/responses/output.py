"""The items of a response's output as an answer comes: one message, or calls of functions."""

import uuid
from dataclasses import dataclass, field

from cdlm.server.text.tool_calls import Call, Piece, TextPiece


@dataclass(slots=True)
class TextItem:
    """The message."""

    text: str = ""
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")


@dataclass(slots=True)
class CalledItem:
    """One call."""

    call: Call
    id: str = field(default_factory=lambda: f"fc_{uuid.uuid4().hex}")


Item = TextItem | CalledItem


class Output:
    """The items so far.

    Attributes:
        items: all of them; only the last one may still grow.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []

    def place(self, piece: Piece) -> bool:
        """Puts a piece where it belongs; whether a new item begins with it."""
        if isinstance(piece, TextPiece):
            new = not self.items or not isinstance(self.items[-1], TextItem)
            last = self.open_text() if new else self.items[-1]
            assert isinstance(last, TextItem)
            last.text += piece.text
            return new
        if piece.begins:
            self.items.append(CalledItem(piece.call))
        return piece.begins

    def open_text(self) -> TextItem:
        """Begins a message."""
        item = TextItem()
        self.items.append(item)
        return item
