"""Answers of ``/v1/chat/completions``."""

from typing import Literal

from pydantic import Field

from server.schema.common import Answer, Canvas, ScoredToken, TokenIds, Usage


class ChatLogprobs(Answer):
    """One entry a token."""

    content: list[ScoredToken]
    refusal: None


class AssistantMessage(Answer):
    """The answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    token_ids: TokenIds = None
    prompt_token_ids: TokenIds = None


class Delta(Answer):
    """What a chunk adds to a message."""

    role: Literal["assistant"] = Field("assistant", description="Only in the first chunk of an answer.")
    content: str = Field("", description="In every chunk but the last of an answer.")


class ChatPiece(Answer):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: TokenIds = None
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


class ChatCompletionChunk(_ChatHead):
    """An event of a stream; the one with the usage has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatPiece]
    usage: Usage | None = None
