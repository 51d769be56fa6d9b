"""Turns of a conversation, made of blocks, and the messages of a chat that they stand for."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import RESULT_BLOCK, TEXT_BLOCK, THOUGHT_BLOCK, TURN, USE_BLOCK
from cdlm.server.openai.protocol.fields import ApiModel, by_type


def blocks(value: object) -> object:
    """Converts text to one block; other values are left to validation."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class TextBlock(ApiModel):
    """A text."""

    place = TEXT_BLOCK
    kinds: ClassVar[tuple[str, ...]] = ("text",)

    type: Literal["text"]
    text: str


TextBlocks = Annotated[list[TextBlock], BeforeValidator(blocks, json_schema_input_type=str | list[TextBlock])]


class UserText(TextBlock):
    """A text of the user."""

    kinds = ("text", "tool_result")


class AssistantText(TextBlock):
    """A text of the assistant."""

    kinds = ("text", "tool_use", "thinking", "redacted_thinking")


class ResultBlock(ApiModel):
    """The result of a call."""

    place = RESULT_BLOCK

    type: Literal["tool_result"]
    tool_use_id: str = Field(description="The id of a tool_use block of an earlier turn.")
    content: TextBlocks = Field([], description="Text or text blocks.")
    is_error: bool = Field(False, description="The call failed: the model reads 'Error: ' before the content.")

    @property
    def text(self) -> str:
        """The result as the model reads it."""
        text = joined(self.content)
        return f"Error: {text}" if self.is_error else text


class UseBlock(ApiModel):
    """A call that the assistant made."""

    place = USE_BLOCK

    type: Literal["tool_use"]
    id: str = Field(min_length=1, description="The id by which its result refers to it.")
    name: str = Field(min_length=1)
    input: dict[str, JsonValue] = Field(description="The arguments.")


class ThoughtBlock(ApiModel):
    """Thinking of another model's answer; accepted, but not shown to the model."""

    place = THOUGHT_BLOCK

    type: Literal["thinking", "redacted_thinking"]


UserBlock = Annotated[
    Annotated[UserText, Tag("<text>")] | Annotated[ResultBlock, Tag("<tool_result>")], by_type(("tool_result",), "text")
]
AssistantBlock = Annotated[
    Annotated[AssistantText, Tag("<text>")]
    | Annotated[UseBlock, Tag("<tool_use>")]
    | Annotated[ThoughtBlock, Tag("<thinking>")]
    | Annotated[ThoughtBlock, Tag("<redacted_thinking>")],
    by_type(("tool_use", "thinking", "redacted_thinking"), "text"),
]
_UserContent = str | Annotated[list[UserBlock], Field(min_length=1)]


class UserTurn(ApiModel):
    """What the user says, and results of calls."""

    place = TURN

    role: Literal["user"]
    content: Annotated[
        list[UserBlock], BeforeValidator(blocks, json_schema_input_type=_UserContent), Field(min_length=1)
    ] = Field(description="Text, or blocks of type text and tool_result.")


class AssistantTurn(ApiModel):
    """What the model said and called."""

    place = TURN

    role: Literal["assistant"]
    content: Annotated[
        list[AssistantBlock], BeforeValidator(blocks, json_schema_input_type=str | list[AssistantBlock])
    ] = Field(description="Text, or blocks of type text and tool_use. The last turn's text is continued.")


def _role_tag(value: object) -> str | None:
    role = value.get("role") if isinstance(value, dict) else None
    return f"<{role}>" if role in ("user", "assistant") else None


Turn = Annotated[
    Annotated[UserTurn, Tag("<user>")] | Annotated[AssistantTurn, Tag("<assistant>")],
    Discriminator(
        _role_tag,
        custom_error_type="role",
        custom_error_message="must be an object of role 'user' or 'assistant'; a system prompt is in system",
    ),
]


def joined(texts: Sequence[TextBlock]) -> str:
    """The text of blocks."""
    return "\n".join(block.text for block in texts)


def chat_messages(system: Sequence[TextBlock], turns: Sequence[UserTurn | AssistantTurn]) -> list[dict[str, Any]]:
    """Converts turns to messages of a chat. Texts of one role that follow each other become one message.

    Raises ``ApiError`` 400 for the result of a call that is not there, and for a call without result at the end.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": joined(system)}] if system else []
    called: set[str] = set()
    for number, turn in enumerate(turns):
        # Without thoughts a turn may be empty; it still is the assistant's.
        if all(isinstance(block, ThoughtBlock) for block in turn.content):
            _say(messages, "assistant", "")
        for index, block in enumerate(turn.content):
            match block:
                case TextBlock():
                    _say(messages, turn.role, block.text)
                case UseBlock():
                    called.add(block.id)
                    _call(messages, block)
                case ResultBlock():
                    if block.tool_use_id not in called:
                        param = f"messages[{number}].content[{index}].tool_use_id"
                        name = block.tool_use_id[:64]
                        raise invalid(f"{param}: no tool_use block before it has the id {name!r}", param)
                    messages.append({"role": "tool", "content": block.text, "tool_call_id": block.tool_use_id})
    if messages and "tool_calls" in messages[-1]:
        param = f"messages[{len(turns) - 1}]"
        raise invalid(f"{param}: the last turn ends with a tool_use block, whose tool_result must follow", param)
    return messages


def _say(messages: list[dict[str, Any]], role: str, text: str) -> None:
    last = messages[-1] if messages else {}
    if last.get("role") == role and "tool_calls" not in last:
        last["content"] += f"\n{text}"
    else:
        messages.append({"role": role, "content": text})


def _call(messages: list[dict[str, Any]], block: UseBlock) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    arguments = json.dumps(block.input, ensure_ascii=False, separators=(",", ":"))
    call = {"id": block.id, "function": {"name": block.name, "arguments": arguments}}
    messages[-1].setdefault("tool_calls", []).append(call)
