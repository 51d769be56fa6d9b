"""The body of a request for a response."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from model.rules import RuleName
from server.errors import invalid, unsupported
from server.protocol.chat import check_content
from server.protocol.common import AnswerFields, AnyStreamOptions, ApiModel
from server.protocol.effort import Effort
from server.protocol.fields.row import ITEM, ITEM_PART, REASONING, RESPONSES, TEXT
from server.protocol.fields.table import UNWANTED
from server.protocol.formats import TextFormat

LOGPROBS = "message.output_text.logprobs"


def check_parts(value: object) -> str:
    """The content of an item as one text; raises ``ValueError`` for parts that are not text."""
    return check_content(value, ("input_text", "output_text"), ITEM_PART)


def listed(value: object) -> object:
    """Text as the one message it stands for; anything else is left to the validation of items."""
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("must not be empty")
    return [{"role": "user", "content": value}]


class ContentPart(ApiModel):
    """A part of a message."""

    place = ITEM_PART

    type: Literal["input_text", "output_text"]
    text: str


class InputItem(ApiModel):
    """A message of the input. ``id`` and ``status``, which items of an earlier answer have, mean nothing here."""

    place = ITEM

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[str, PlainValidator(check_parts, json_schema_input_type=str | list[ContentPart])] = Field(
        description="Text or text parts."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_messages(cls, data: Any) -> Any:
        # Before the names of other items' fields are looked at.
        if isinstance(data, dict) and data.get("type") not in (None, "message"):
            raise PydanticCustomError(UNWANTED, "must be 'message'; there are no other items", {"field": "type"})
        return data

    def fields(self) -> dict[str, str]:
        """What the chat template sees."""
        return {"role": self.role, "content": self.content}


class TextConfig(ApiModel):
    """The form of the answer's text."""

    place = TEXT

    format: TextFormat = TextFormat(type="text")


class Reasoning(ApiModel):
    """What there is to set of reasoning."""

    place = REASONING

    effort: Effort | None = Field(None, description="How sure a token must be before it is written.")


class ResponsesRequest(AnswerFields):
    """``POST /v1/responses``."""

    place = RESPONSES

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
    stream_options: AnyStreamOptions = AnyStreamOptions()
    tools: list[JsonValue] = []
    tool_choice: JsonValue = None
    parallel_tool_calls: bool = True

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
        if self.tools:
            raise unsupported("tools")
        if self.tool_choice not in (None, "none", "auto"):
            raise unsupported("tool_choice")
        if any(name != LOGPROBS for name in self.include):
            raise unsupported("include")
