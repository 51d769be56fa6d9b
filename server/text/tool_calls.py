"""Parses tool calls in streamed text."""

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Literal

from cdlm.server.text.tool_format import CALL_BEGIN, CALL_END, CALL_MARK, CALL_SEPARATOR
from cdlm.server.text.update import Update

_HEAD = re.compile(re.escape(CALL_BEGIN) + r'\{"name":"([A-Za-z0-9_-]+)","arguments":')
# The arguments are JSON without free white space: the first line feed after a brace ends the call.
_END_OF_ARGUMENTS = CALL_END[:2]
_TAIL = CALL_END[2:]


@dataclass(slots=True)
class Call:
    """A tool call; ``arguments`` is valid JSON once it is complete."""

    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    @property
    def complete(self) -> bool:
        """Whether the arguments are complete."""
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of call number ``index``: its start if ``begins``, else part of its arguments."""

    index: int
    call: Call
    arguments: str = ""
    begins: bool = False


Piece = TextPiece | CallPiece


class ToolCallReader:
    """Splits an answer's text into pieces of text and of tool calls.

    Args:
        calls: whether the text may contain calls.

    Attributes:
        content: the text outside of calls.
        calls: the calls so far.
    """

    def __init__(self, *, calls: bool = True) -> None:
        self.content = ""
        self.calls: list[Call] = []
        self._held = ""
        self._state: Literal["start", "text", "head", "arguments", "tail"] = "start" if calls else "text"

    @property
    def ends_in_call(self) -> bool:
        """Whether the last call is complete; one that a stop string or the length cut is not."""
        return bool(self.calls) and self.calls[-1].complete

    def feed(self, text: str) -> list[Piece]:
        """Adds text; returns the new pieces."""
        self._held += text
        pieces: list[Piece] = []
        while self._advance(pieces):
            pass
        return pieces

    def take(self, update: Update) -> list[Piece]:
        """Adds the update of a block or a part of one; returns the new pieces. The last update ends the text."""
        return self.feed(update.text) + ([] if update.finish_reason is None else self.finish(cut=update.cut))

    def finish(self, *, cut: bool) -> list[Piece]:
        """Ends the text; returns the pieces that were held back.

        Drops the start of a call without its name. If the text was ``cut`` by length or a stop string, also drops a
        possible start of a call; otherwise that is text.
        """
        if self._state == "start" and not cut:
            self._state = "text"
        elif self._state == "arguments" and self.calls[-1].complete:
            self._held = ""  # This brace belongs to the call, not to its arguments.
        pieces: list[Piece] = []
        if self._state == "text":
            self._say(self._held, pieces)
        elif self._state == "arguments":
            self._argue(self._held, pieces)
        self._held = ""
        return pieces

    def _advance(self, pieces: list[Piece]) -> bool:
        """Consumes what is certain of the held text; returns whether to continue."""
        held = self._held
        match self._state:
            case "start":
                if held and not CALL_MARK.startswith(held[: len(CALL_MARK)]):
                    self._state = "text"
                elif len(held) >= len(CALL_MARK):
                    self._state = "head"
                return self._state != "start"
            case "text":
                self._held = ""
                self._say(held, pieces)
                return False
            case "head":
                if (found := _HEAD.match(held)) is None:
                    return False
                call = Call(found[1])
                self.calls.append(call)
                pieces.append(CallPiece(len(self.calls) - 1, call, begins=True))
                self._held, self._state = held[found.end() :], "arguments"
                return True
            case "arguments":
                arguments, end, rest = held.partition(_END_OF_ARGUMENTS)
                if end:
                    self._held, self._state = rest, "tail"
                else:
                    # The last brace may close the call, not the arguments.
                    arguments = held.removesuffix(_END_OF_ARGUMENTS[0])
                    self._held = held[len(arguments) :]
                self._argue(arguments, pieces)
                return bool(end)
            case "tail":
                if not held.startswith(_TAIL + CALL_SEPARATOR):
                    return False
                self._held, self._state = held.removeprefix(_TAIL + CALL_SEPARATOR), "head"
                return True

    def _say(self, text: str, pieces: list[Piece]) -> None:
        if text:
            self.content += text
            pieces.append(TextPiece(text))

    def _argue(self, text: str, pieces: list[Piece]) -> None:
        if text:
            call = self.calls[-1]
            call.arguments += text
            pieces.append(CallPiece(len(self.calls) - 1, call, text))
