"""Reads calls of tools out of an answer's text as it comes."""

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Literal

from server.tool_format import CALL_BEGIN, CALL_END, CALL_MARK, CALL_SEPARATOR

_HEAD = re.compile(re.escape(CALL_BEGIN) + r'\{"name":"([A-Za-z0-9_-]+)","arguments":')
# JSON without free white space has no line feed, so the first one behind a brace is the end of the call.
_END_OF_ARGUMENTS = CALL_END[:2]
_TAIL = CALL_END[2:]


@dataclass(slots=True)
class Call:
    """A call so far; ``arguments`` is JSON once it is complete."""

    name: str
    arguments: str = ""
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def shown(self) -> dict[str, object]:
        """The call in a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


Delta = dict[str, object]


class ToolCallReader:
    """Turns an answer's text into the pieces of messages: content, or calls.

    Attributes:
        content: text that is no call.
        calls: the calls so far.
    """

    def __init__(self) -> None:
        self.content = ""
        self.calls: list[Call] = []
        self._held = ""
        self._state: Literal["start", "text", "head", "arguments", "tail"] = "start"

    def feed(self, text: str) -> list[Delta]:
        """What ``text`` adds, in the form of a stream's deltas."""
        self._held += text
        deltas: list[Delta] = []
        while self._advance(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back, once no more text comes; the head of a call without its name is dropped."""
        if self._state == "start":
            self._state = "text"
        elif self._state == "arguments" and _complete(self.calls[-1].arguments):
            self._held = ""  # The brace of a call that was cut off, not of its arguments.
        deltas: list[Delta] = []
        if self._state == "text":
            self._say(self._held, deltas)
        elif self._state == "arguments":
            self._argue(self._held, deltas)
        self._held = ""
        return deltas

    def _advance(self, deltas: list[Delta]) -> bool:
        """Takes what can be told of the held text; whether there may be more of it."""
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
                self._say(held, deltas)
                return False
            case "head":
                if (found := _HEAD.match(held)) is None:
                    return False
                call = Call(found[1])
                self.calls.append(call)
                deltas.append({"tool_calls": [{"index": len(self.calls) - 1} | call.shown()]})
                self._held, self._state = held[found.end() :], "arguments"
                return True
            case "arguments":
                arguments, end, rest = held.partition(_END_OF_ARGUMENTS)
                if end:
                    self._held, self._state = rest, "tail"
                else:
                    # The last brace may be the one around name and arguments.
                    arguments = held.removesuffix(_END_OF_ARGUMENTS[0])
                    self._held = held[len(arguments) :]
                self._argue(arguments, deltas)
                return bool(end)
            case "tail":
                if not held.startswith(_TAIL + CALL_SEPARATOR):
                    return False
                self._held, self._state = held.removeprefix(_TAIL + CALL_SEPARATOR), "head"
                return True

    def _say(self, text: str, deltas: list[Delta]) -> None:
        if text:
            self.content += text
            deltas.append({"content": text})

    def _argue(self, text: str, deltas: list[Delta]) -> None:
        if text:
            self.calls[-1].arguments += text
            deltas.append({"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": text}}]})


def _complete(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True
