"""Answers of ``/v1/responses``."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, RootModel

from server.protocol.effort import Effort
from server.schema.common import Answer, CachedTokens, Canvas, ScoredToken, TokenIds, Work


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[str] = Field(max_length=0)
    logprobs: list[ScoredToken] = Field(description="Empty unless include asks for them.")
    token_ids: TokenIds = None


class OutputMessage(Answer):
    """The one item of the output."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class OutputDetails(Answer):
    """Of the output tokens."""

    reasoning_tokens: Literal[0]


class ResponseUsage(Work):
    """Tokens and work of a response."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: OutputDetails


class ResponseError(Answer):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(Answer):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ReasoningUsed(Answer):
    """The effort that was asked for."""

    effort: Effort | None
    summary: None


class PlainFormat(Answer):
    """Text, or some JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Answer):
    """JSON that a schema describes."""

    type: Literal["json_schema"]
    name: str
    description: str = Field("", description="Only if there is one.")
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool


class TextUsed(Answer):
    """The form of the text."""

    format: PlainFormat | SchemaFormat


class ResponseAnswer(Answer):
    """A response, finished or in the making."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    model: str
    system_fingerprint: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputMessage]
    usage: ResponseUsage | None = Field(description="Null while it is in progress.")
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_token_ids: TokenIds = None
    reasoning: ReasoningUsed
    store: Literal[False]
    temperature: float
    text: TextUsed
    tool_choice: Literal["none", "auto"]
    tools: list[str] = Field(max_length=0)
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None


class _Event(Answer):
    sequence_number: int = Field(description="From 0 on.")


class _Placed(_Event):
    item_id: str
    output_index: Literal[0]
    content_index: Literal[0]


class StateEvent(_Event):
    """The response as it is."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseAnswer


class ItemEvent(_Event):
    """The message begins or has ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: Literal[0]
    item: OutputMessage


class PartEvent(_Placed):
    """Its text begins or has ended."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class DeltaEvent(_Placed):
    """More text."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[ScoredToken]
    token_ids: TokenIds = None
    diffusing: Canvas | None = Field(None, description="Only with diffusing.")


class TextEvent(_Placed):
    """The whole text."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[ScoredToken]


class ErrorEvent(_Event):
    """What went wrong; response.failed follows."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


class ResponseEvent(
    RootModel[
        Annotated[StateEvent | ItemEvent | PartEvent | DeltaEvent | TextEvent | ErrorEvent, Field(discriminator="type")]
    ]
):
    """An event of a stream; its name is its type."""
