"""Answers of ``/v1/responses``."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, RootModel

from cdlm.server.answer import Answer
from cdlm.server.openai.protocol.effort import Effort
from cdlm.server.openai.protocol.response import Canvas, InputDetails, OutputDetails, ScoredToken, TokenIds, Work


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[str] = Field(max_length=0)
    logprobs: list[ScoredToken] = Field(description="Empty unless include asks for them.")
    token_ids: TokenIds = None


class OutputMessage(Answer):
    """A message of the output."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class FunctionCall(Answer):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    call_id: str = Field(description="What its result is sent back with.")
    name: str
    arguments: str = Field(description="JSON, unless the answer was cut.")
    status: Literal["in_progress", "completed", "incomplete"]


OutputItem = Annotated[OutputMessage | FunctionCall, Field(discriminator="type")]


class ResponseUsage(Work):
    """Tokens and work of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
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


class OfferedFunction(Answer):
    """A function that could be called."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, JsonValue]
    strict: bool


class FunctionName(Answer):
    """A function by its name."""

    type: Literal["function"]
    name: str


class AllowedFunctions(Answer):
    """The functions that could be called, of all that were shown."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionName]


class ResponseAnswer(Answer):
    """A response, finished or in progress."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    model: str
    system_fingerprint: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    output: list[OutputItem]
    usage: ResponseUsage | None = Field(description="Null while it is in progress.")
    background: Literal[False]
    conversation: None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt: None
    prompt_cache_key: None
    prompt_token_ids: TokenIds = None
    reasoning: ReasoningUsed
    safety_identifier: None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: TextUsed
    token_ids: Annotated[list[int] | None, Field(description="Only with return_token_ids; those of calls too.")] = None
    tool_choice: Literal["none", "auto", "required"] | FunctionName | AllowedFunctions
    tools: list[OfferedFunction]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None


class _Event(Answer):
    sequence_number: int = Field(description="From 0 on.")


class _OfItem(_Event):
    item_id: str
    output_index: int


class _Placed(_OfItem):
    content_index: Literal[0]


class StateEvent(_Event):
    """An event with the current state of the response."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: ResponseAnswer


class ItemEvent(_Event):
    """A message or a call was added or is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(_Placed):
    """The text part of a message was added or is done."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class DeltaEvent(_Placed):
    """A piece of text."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[ScoredToken]
    token_ids: TokenIds = None
    diffusing: Canvas | None = Field(None, description="Only with diffusing.")


class TextEvent(_Placed):
    """The complete text."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[ScoredToken]


class ArgumentsDeltaEvent(_OfItem):
    """A piece of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str
    token_ids: TokenIds = None


class ArgumentsEvent(_OfItem):
    """The complete arguments of a call."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(_Event):
    """What went wrong; response.failed follows."""

    type: Literal["error"]
    code: str
    message: str
    param: str | None


_AnyEvent = (
    StateEvent | ItemEvent | PartEvent | DeltaEvent | TextEvent | ArgumentsDeltaEvent | ArgumentsEvent | ErrorEvent
)


class ResponseEvent(RootModel[Annotated[_AnyEvent, Field(discriminator="type")]]):
    """An event of a stream; its name is its type."""
