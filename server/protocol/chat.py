"""The body of a chat request."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, PlainValidator, model_validator

from model.rules import RuleName
from server.errors import invalid
from server.protocol.common import ApiModel
from server.protocol.fields.row import CHATS, MESSAGE, PART
from server.protocol.fields.table import settle
from server.protocol.structured import ConstrainedFields
from server.protocol.tools import MAX_TOOLS, Tool, ToolCall, ToolChoice, ToolUse
from server.text import Chat

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]


def check_content(value: object, kinds: Collection[str] = ("text",), place: str = PART) -> str:
    """Message content as one text; raises ``ValueError`` for parts whose type is not one of ``kinds``."""
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

    def fields(self) -> dict[str, JsonValue]:
        """What the chat template sees."""
        shown: dict[str, JsonValue] = {"role": self.role, "content": self.content}
        if self.name:
            shown["name"] = self.name
        if self.tool_call_id:
            shown["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            shown["tool_calls"] = [call.fields() for call in self.tool_calls]
        return shown


class ChatRequest(ConstrainedFields):
    """``POST /v1/chat/completions``."""

    place = CHATS

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens of an answer; absent takes the rest of the context."
    )
    max_tokens: int | None = Field(None, ge=1, description="Older name of max_completion_tokens.")
    logprobs: bool = Field(False, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="How many of the likeliest tokens to report in each place; needs logprobs."
    )
    tools: list[Tool] = Field([], max_length=MAX_TOOLS)
    tool_choice: ToolChoice = Field(
        "auto",
        description="auto leaves it to the model whether it answers or calls; required makes it call. The tools that "
        "it may call can be fewer than those it hears of.",
    )
    parallel_tool_calls: bool = Field(True, description="Whether an answer may have several calls.")

    @property
    def token_limit(self) -> int | None:
        """The limit under whichever name it came."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def tool_use(self) -> ToolUse:
        """What the model may call; raises ``ApiError`` 400 where ``tool_choice`` does not fit ``tools``."""
        return ToolUse.of(
            [tool.function for tool in self.tools],
            self.tool_choice,
            several=self.parallel_tool_calls,
            parameters="tools[{}].function.parameters",
        )

    def chat(self) -> Chat:
        """What the prompt is made of."""
        return Chat(
            [message.fields() for message in self.messages],
            [function.declaration() for function in self.tool_use.functions],
        )

    @property
    def engine_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check_supported(self, default_rule: RuleName) -> None:
        super().check_supported(default_rule)
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        constraint = self.constraint
        if (self.tool_use.functions or constraint) and self.ignore_eos:
            what = "tools" if constraint is None else constraint.param
            raise invalid(f"ignore_eos cannot be used with {what}: such answers end", "ignore_eos")
