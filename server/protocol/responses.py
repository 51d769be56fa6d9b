"""The body of a request for a response."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, PlainValidator

from model.rules import RuleName
from server.errors import invalid
from server.protocol.chat import check_content
from server.protocol.common import AnswerFields, ApiModel, ObfuscationOptions
from server.protocol.effort import Effort
from server.protocol.formats import TextFormat

LOGPROBS = "message.output_text.logprobs"

# Fields whose values other than null, false and empty would change the output or need what is not kept here.
_REFUSED = (
    "access_programs",
    "background",
    "background_options",
    "context_management",
    "conversation",
    "image",
    "moderation",
    "previous_response_id",
    "prompt",
    "tools",
)


def check_parts(value: object) -> str:
    """The content of an item as one text; raises ``ValueError`` for parts that are not text."""
    return check_content(value, ("input_text", "output_text"))


def listed(value: object) -> object:
    """Text as the one message it stands for; anything else is left to the validation of items."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("must not be empty")
    return [{"role": "user", "content": value}]


class ContentPart(ApiModel):
    """A part of a message."""

    type: Literal["input_text", "output_text"]
    text: str


class InputItem(ApiModel):
    """A message of the input. ``id`` and ``status``, which items of an earlier answer have, mean nothing here."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[str, PlainValidator(check_parts, json_schema_input_type=str | list[ContentPart])] = Field(
        description="Text or text parts."
    )

    def fields(self) -> dict[str, str]:
        """What the chat template sees."""
        return {"role": self.role, "content": self.content}


class TextConfig(ApiModel):
    """The form of the answer's text."""

    format: TextFormat = TextFormat(type="text")
    verbosity: JsonValue = Field(None, description="Accepted without effect.")


class Reasoning(ApiModel):
    """What there is to set of reasoning."""

    effort: Effort | None = Field(None, description="How sure a token must be before it is written.")
    summary: JsonValue = None
    generate_summary: JsonValue = None
    context: JsonValue = None
    mode: JsonValue = None


class ResponsesRequest(AnswerFields):
    """``POST /v1/responses``."""

    route = "/v1/responses"
    elsewhere = {
        "best_of": None,
        "echo": None,
        "logprobs": f"include: [{LOGPROBS!r}]",
        "max_completion_tokens": "max_output_tokens",
        "max_tokens": "max_output_tokens",
        "messages": "input",
        "n": None,
        "reasoning_effort": "reasoning.effort",
        "response_format": "text.format",
        "suffix": None,
    }

    effort_param: ClassVar[str] = "reasoning.effort"

    input: Annotated[
        list[InputItem], BeforeValidator(listed, json_schema_input_type=str | list[InputItem]), Field(min_length=1)
    ] = Field(description="Text of the user, or messages.")
    instructions: str | None = Field(None, description="A system message in front of the input.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Most tokens of the answer; exact. Absent takes the rest of the context."
    )
    text: TextConfig = TextConfig()
    reasoning: Reasoning = Reasoning()
    include: list[str] = Field([], description=f"Only {LOGPROBS} is supported.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="How many of the likeliest tokens to report in each place; needs include."
    )
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
    ] = Field({}, description="Returned as it is.")
    store: bool = Field(False, description="Only false is supported: no response is kept.")
    truncation: Literal["disabled", "auto"] = Field("disabled", description="Only disabled is supported.")
    stream_options: ObfuscationOptions = ObfuscationOptions()
    tools: list[JsonValue] = []
    tool_choice: JsonValue = None
    parallel_tool_calls: bool = True
    access_programs: JsonValue = None
    background: bool = False
    background_options: JsonValue = None
    context_management: JsonValue = None
    conversation: JsonValue = None
    image: JsonValue = None
    moderation: JsonValue = None
    previous_response_id: str | None = None
    prompt: JsonValue = None
    max_tool_calls: JsonValue = None
    prompt_cache_key: JsonValue = None
    prompt_cache_options: JsonValue = None
    prompt_cache_retention: JsonValue = None
    safety_identifier: JsonValue = None
    service_tier: JsonValue = None

    @property
    def reports_logprobs(self) -> bool:
        """Whether the log-probabilities of the answer's tokens are shown."""
        return LOGPROBS in self.include

    @property
    def engine_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.reports_logprobs else None

    @property
    def effort(self) -> Effort | None:
        return self.reasoning.effort

    def messages(self) -> list[dict[str, str]]:
        """What the chat template sees: the instructions, then the input."""
        first = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return first + [item.fields() for item in self.input]

    def check_supported(self, default_rule: RuleName) -> None:
        super().check_supported(default_rule)
        if self.top_logprobs and not self.reports_logprobs:
            raise invalid(f"top_logprobs needs include to have {LOGPROBS!r}", "top_logprobs")
        if self.ignore_eos and self.text.format.type != "text":
            raise invalid("ignore_eos cannot be used with text.format: such an answer ends", "ignore_eos")

    def _not_honoured(self) -> Iterator[str]:
        yield from super()._not_honoured()
        yield from (name for name in _REFUSED if getattr(self, name))
        yield from (
            f"reasoning.{name}" for name in ("summary", "generate_summary", "context", "mode")
            if getattr(self.reasoning, name) is not None
        )  # fmt: skip
        if any(name != LOGPROBS for name in self.include):
            yield "include"
        if self.store:
            yield "store"
        if self.truncation != "disabled":
            yield "truncation"
        if self.stream_options.include_obfuscation:
            yield "stream_options.include_obfuscation"
        if self.tool_choice not in (None, "none", "auto"):
            yield "tool_choice"
