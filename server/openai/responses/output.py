"""The output items of a response in progress: one message, or function calls."""

import uuid
from dataclasses import dataclass, field

from cdlm.server.text.tool_calls import Call, Piece, TextPiece


@dataclass(slots=True)
class TextItem:
    """The message item."""

    text: str = ""
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")


@dataclass(slots=True)
class CalledItem:
    """A function call item."""

    call: Call
    id: str = field(default_factory=lambda: f"fc_{uuid.uuid4().hex}")


Item = TextItem | CalledItem


class Output:
    """The output items so far.

    Attributes:
        items: all items; only the last one can grow.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []

    def place(self, piece: Piece) -> bool:
        """Adds a piece to its item; returns whether it begins a new item."""
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
