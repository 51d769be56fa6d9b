"""Messages of a chat, and the items of an input that stand for them."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, PlainValidator, model_validator

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import CALL_ITEM, MESSAGE, PART
from cdlm.server.openai.fields.table import settle
from cdlm.server.openai.protocol.conditions import either, given
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.protocol.tools import CalledFunction, ToolCall

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


def check_content(value: object, kinds: Collection[str] = ("text",), place: str = PART) -> str:
    """Joins message content to one text; raises ``ValueError`` for parts of types other than ``kinds``."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of text parts")
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
            raise ValueError("every part must be an object with a type")
        if kind not in kinds:
            raise ValueError(f"parts of type {kind[:64]!r} are not supported; only {' and '.join(kinds)}")
        if not isinstance(text := part.get("text"), str):
            raise ValueError("a text part must have a string named text")
        settle(place, ("type", "text"), part, f"[{index}].")
        texts.append(text)
    return "\n".join(texts)


class TextPart(ApiModel):
    """A part of a message."""

    place = PART

    type: Literal["text"]
    text: str


class Message(ApiModel):
    """One message of a chat."""

    place = MESSAGE
    conditions = (either(given("role", "assistant"), given("content")),)

    role: Role
    content: Annotated[str, PlainValidator(check_content, json_schema_input_type=str | list[TextPart])] = Field(
        "", description="Text or text parts; only an assistant's may be absent."
    )
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] = []

    @model_validator(mode="before")
    @classmethod
    def _content_is_there(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("content") is None and data.get("role") != "assistant":
            raise ValueError("content is required")
        return data

    @property
    def has_content(self) -> bool:
        """Whether the message has content, perhaps empty; only an assistant's message may lack it."""
        return "content" in self.model_fields_set

    def fields(self) -> dict[str, JsonValue]:
        """The message for the chat template; null content is omitted."""
        shown: dict[str, JsonValue] = {"role": self.role}
        if self.has_content:
            shown["content"] = self.content
        if self.name:
            shown["name"] = self.name
        if self.tool_call_id:
            shown["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            shown["tool_calls"] = [call.fields() for call in self.tool_calls]
        return shown


class CallItem(ApiModel):
    """A call of a function."""

    place = CALL_ITEM

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, description="The id by which its output refers to it.")
    name: str = Field(min_length=1)
    arguments: str = Field(description="JSON text; empty stands for no arguments.")


def listed(value: object) -> object:
    """Converts text to one user message; other values are left to validation."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("must not be empty")
    return [{"role": "user", "content": value}]


def shown(content: str | list[Any]) -> str:
    """The text of content: what its parts show, one below the other."""
    return content if isinstance(content, str) else "\n".join(part.shown() for part in content)


def chat_messages(items: Sequence[Any]) -> list[Message]:
    """Converts messages, calls and their outputs to chat messages; items of other types are left out.

    An assistant's text and the calls after it become one message. Raises ``ApiError`` 400 for an output without an
    earlier call of its kind.
    """
    messages: list[dict[str, Any]] = []
    called: set[tuple[str, str]] = set()
    for index, item in enumerate(items):
        if item.type == "message":
            messages.append({"role": item.role, "content": shown(item.content)})
        elif item.type.endswith("_call"):
            called.add((item.type, item.call_id))
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            function = CalledFunction(name=item.name, arguments=item.arguments)
            messages[-1].setdefault("tool_calls", []).append(ToolCall(id=item.call_id, function=function))
        elif item.type.endswith("_output"):
            kind = item.type.removesuffix("_output")
            if (kind, item.call_id) not in called:
                param = f"input[{index}].call_id"
                raise invalid(f"{param}: no {kind} before it has the call_id {item.call_id[:64]!r}", param)
            messages.append({"role": "tool", "content": shown(item.output), "tool_call_id": item.call_id})
    return [Message.model_validate(message) for message in messages]
