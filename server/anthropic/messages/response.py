"""Answers of ``/v1/messages`` and its events."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, RootModel

from cdlm.server.answer import Answer
from cdlm.server.anthropic.error import MessagesError

StopWord = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
_Sequence = Annotated[str | None, Field(description="The stop sequence that ended the answer.")]


class TextAnswerBlock(Answer):
    """What the model says."""

    type: Literal["text"]
    text: str


class UseAnswerBlock(Answer):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue] = Field(description="The arguments; what there is of them if the answer was cut.")


AnswerBlock = Annotated[TextAnswerBlock | UseAnswerBlock, Field(discriminator="type")]


class MessagesUsage(Answer):
    """Tokens of a request."""

    input_tokens: int = Field(description="Tokens of the prompt that were computed.")
    cache_creation_input_tokens: Literal[0] = Field(description="Cache writes are not counted.")
    cache_read_input_tokens: int = Field(description="Tokens of the prompt that came from the prefix cache.")
    output_tokens: int


class MessageAnswer(Answer):
    """The turn of the assistant."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: StopWord | None
    stop_sequence: _Sequence
    usage: MessagesUsage


class TokenCount(Answer):
    """The length of a prompt."""

    input_tokens: int


class MessageStart(Answer):
    """The first event, with a message that has no content yet."""

    type: Literal["message_start"]
    message: MessageAnswer


class Ping(Answer):
    """An event without meaning."""

    type: Literal["ping"]


class BlockStart(Answer):
    """A block begins; its text or input is empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: AnswerBlock


class TextDelta(Answer):
    """A piece of text."""

    type: Literal["text_delta"]
    text: str


class InputDelta(Answer):
    """A piece of the JSON of a call's arguments."""

    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(Answer):
    """A piece of the last block."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[TextDelta | InputDelta, Field(discriminator="type")]


class BlockStop(Answer):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: int


class Ending(Answer):
    """Why the answer ended."""

    stop_reason: StopWord
    stop_sequence: _Sequence


class MessageDelta(Answer):
    """How the answer ended, and its usage."""

    type: Literal["message_delta"]
    delta: Ending
    usage: MessagesUsage


class MessageStop(Answer):
    """The last event."""

    type: Literal["message_stop"]


_AnyEvent = (
    MessageStart | Ping | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | MessagesError
)  # fmt: skip


class MessageEvent(RootModel[Annotated[_AnyEvent, Field(discriminator="type")]]):
    """An event of a stream; its name is its type."""
