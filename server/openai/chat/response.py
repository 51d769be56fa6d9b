"""Answers of ``/v1/chat/completions``."""

from typing import Annotated, Literal

from pydantic import Field

from cdlm.server.answer import Answer
from cdlm.server.openai.protocol.response import Canvas, ScoredToken, StepMap, StopReason, TokenIds, Usage, Vote


class ChatLogprobs(Answer):
    """Log-probabilities, one entry per token."""

    content: list[ScoredToken]
    refusal: None


class CalledFunction(Answer):
    """A function and its arguments."""

    name: str
    arguments: str = Field(description="JSON, unless the answer was cut by its length.")


class ToolCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Answer):
    """The message of an answer."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where the answer is calls of tools.")
    refusal: None
    tool_calls: list[ToolCall] = Field([], description="Only where tools are called.")


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: StopReason
    token_ids: TokenIds = None
    step_map: StepMap = None
    vote: Vote = None


class CalledFunctionPiece(Answer):
    """A piece of a called function in a chunk."""

    name: str = Field("", description="Only in the first piece of a call.")
    arguments: str


class ToolCallPiece(Answer):
    """A piece of a tool call in a chunk."""

    index: int = Field(description="Which call of the message.")
    id: str = Field("", description="Only in the first piece of a call, like type.")
    type: Literal["function"] = "function"
    function: CalledFunctionPiece


class Delta(Answer):
    """A piece of a message in a chunk."""

    role: Literal["assistant"] = Field("assistant", description="Only in the first chunk of an answer.")
    content: str = Field("", description="In every chunk of an answer but the last, and those with calls.")
    tool_calls: list[ToolCallPiece] = Field([], description="Pieces of calls of tools.")


class ChatPiece(Answer):
    """A piece of one answer in a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    stop_reason: StopReason
    token_ids: TokenIds = None
    step_map: StepMap = None
    diffusing: Canvas | None = Field(None, description="Only with diffusing.")


class _ChatHead(Answer):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_ChatHead):
    """An answered chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: TokenIds = None


class ChatCompletionChunk(_ChatHead):
    """An event of a stream; the one with the usage has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
    usage: Usage | None = None
    prompt_token_ids: Annotated[list[int] | None, Field(description="In the first chunk, with return_token_ids.")] = (
        None
    )
