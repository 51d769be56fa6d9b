"""Answers of ``/v1/completions``."""

from typing import Annotated, Literal

from pydantic import Field

from cdlm.server.answer import Answer
from cdlm.server.openai.protocol.response import Canvas, StepMap, StopReason, TokenIds, Usage, Vote


class CompletionLogprobs(Answer):
    """Parallel lists with one entry per token; null for the first token of a prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    denoise_steps: list[int | None]


class _CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    stop_reason: StopReason
    token_ids: TokenIds = None
    step_map: StepMap = None


class CompletionChoice(_CompletionChoice):
    """One answer."""

    finish_reason: Literal["stop", "length"]
    prompt_token_ids: TokenIds = None
    vote: Vote = None


class CompletionPiece(_CompletionChoice):
    """A piece of one answer in a chunk."""

    finish_reason: Literal["stop", "length"] | None
    prompt_token_ids: Annotated[list[int] | None, Field(description="In the first of an answer, as token_ids.")] = None
    diffusing: Canvas | None = Field(None, description="Only with diffusing.")


class _CompletionHead(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str


class Completion(_CompletionHead):
    """A completion response."""

    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_CompletionHead):
    """An event of a stream; the one with the usage has no choices."""

    choices: list[CompletionPiece]
    usage: Usage | None = None
