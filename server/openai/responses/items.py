"""Items of a response's input: messages, calls of functions, and their results."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, Tag, model_validator
from pydantic_core import PydanticCustomError

from cdlm.server.openai.fields.row import ITEM, ITEM_PART, REASONING_ITEM, RESULT_ITEM
from cdlm.server.openai.fields.table import UNWANTED
from cdlm.server.openai.protocol.fields import ApiModel, by_type
from cdlm.server.openai.protocol.message import CallItem, check_content

_KINDS = ("message", "function_call", "function_call_output", "reasoning")


def check_parts(value: object) -> str:
    """Joins an item's content to one text; raises ``ValueError`` for parts that are not text."""
    return check_content(value, ("input_text", "output_text"), ITEM_PART)


class ContentPart(ApiModel):
    """A part of a message, or of a function's result."""

    place = ITEM_PART

    type: Literal["input_text", "output_text"]
    text: str


Content = Annotated[
    str,
    PlainValidator(check_parts, json_schema_input_type=str | list[ContentPart]),
    Field(description="Text or text parts."),
]


class MessageItem(ApiModel):
    """A message."""

    place = ITEM

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _kind_is_known(cls, data: Any) -> Any:
        # Before the check of field names, which differ between items.
        if isinstance(data, dict) and (kind := data.get("type")) not in (None, *_KINDS):
            reason = f"must be {', '.join(map(repr, _KINDS[:-1]))} or {_KINDS[-1]!r}, not {str(kind)[:64]!r}"
            if kind == "item_reference":
                reason += ": no response is kept; send the item itself, as clients do that are told store: false"
            raise PydanticCustomError(UNWANTED, "{reason}", {"field": "type", "reason": reason})
        return data


class ResultItem(ApiModel):
    """The result of a function call."""

    place = RESULT_ITEM

    type: Literal["function_call_output"]
    call_id: str = Field(description="The call_id of an earlier call.")
    output: Content


class ReasoningItem(ApiModel):
    """Reasoning from another server's answer; accepted, but not shown to the model."""

    place = REASONING_ITEM

    type: Literal["reasoning"]


InputItem = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[ResultItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    by_type(_KINDS, "message"),
]
