"""Items of a decision's input."""

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import (
    CUSTOM_CALL_ITEM,
    CUSTOM_RESULT_ITEM,
    ITEM,
    ITEM_PART,
    JSON_PART,
    REFUSAL_PART,
    RESULT_ITEM,
)
from cdlm.server.openai.protocol.fields import ApiModel, by_type
from cdlm.server.openai.protocol.message import CallItem

_ITEMS = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")


def _list_or(other: str) -> Discriminator:
    return Discriminator(lambda value: "<list>" if isinstance(value, list) else other)


class TextPart(ApiModel):
    """A text."""

    place = ITEM_PART
    kinds = ("input_text", "input_json", "output_text", "refusal")

    type: Literal["input_text", "output_text"]
    text: str

    def shown(self) -> str:
        """The text that the model reads."""
        return self.text


class RefusalPart(ApiModel):
    """What an earlier answer said instead of an answer."""

    place = REFUSAL_PART

    type: Literal["refusal"]
    refusal: str

    def shown(self) -> str:
        """The text that the model reads."""
        return self.refusal


_Object = dict[str, JsonValue]


class JsonPart(ApiModel):
    """A JSON object, or a list of objects."""

    place = JSON_PART

    type: Literal["input_json"]
    data: Annotated[
        Annotated[_Object, Tag("<object>")] | Annotated[list[_Object], Tag("<list>")], _list_or("<object>")
    ] = Field(description="Rendered as compact JSON.")

    def shown(self) -> str:
        """The text that the model reads."""
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))


Part = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[JsonPart, Tag("<input_json>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    by_type(("input_json", "refusal"), "text"),
]
Content = Annotated[Annotated[str, Tag("<text>")] | Annotated[list[Part], Tag("<list>")], _list_or("<text>")]


class MessageItem(ApiModel):
    """A message."""

    place = ITEM
    kinds = _ITEMS

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content = Field(description="Text, or parts: texts, JSON and refusals.")


class CustomCallItem(ApiModel):
    """A call of a tool that takes a text."""

    place = CUSTOM_CALL_ITEM

    type: Literal["custom_tool_call"]
    call_id: str = Field(min_length=1, description="The id by which its output refers to it.")
    name: str = Field(min_length=1)
    input: str = Field(description="Shown as the argument input.")

    @property
    def arguments(self) -> str:
        """The input as JSON text of arguments."""
        return json.dumps({"input": self.input}, ensure_ascii=False)


class ResultItem(ApiModel):
    """The output of a function call."""

    place = RESULT_ITEM

    type: Literal["function_call_output"]
    call_id: str = Field(description="The call_id of an earlier call.")
    output: Content = Field(description="Text, or parts.")


class CustomResultItem(ApiModel):
    """The output of a custom tool call."""

    place = CUSTOM_RESULT_ITEM

    type: Literal["custom_tool_call_output"]
    call_id: str = Field(description="The call_id of an earlier call.")
    output: Content = Field(description="Text, or parts.")


DecisionItem = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[ResultItem, Tag("<function_call_output>")]
    | Annotated[CustomCallItem, Tag("<custom_tool_call>")]
    | Annotated[CustomResultItem, Tag("<custom_tool_call_output>")],
    by_type(_ITEMS, "message"),
]


def check_data(value: object, param: str) -> None:
    """Raises ``ApiError`` 400 that names ``param`` for JSON beyond OpenAI's limits."""
    if not isinstance(value, JsonPart):
        return
    depth, count, level = 0, 0, [value.data]
    while level:
        depth += any(isinstance(each, dict | list) for each in level)
        count += len(level)
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each if isinstance(each, list) else []
        level = inner
    for found, most, what in (
        (depth, 32, "levels"), (count, 10_000, "values"), (len(value.shown().encode()), 262_144, "bytes as JSON"),
    ):  # fmt: skip
        if found > most:
            raise invalid(f"{param}.data: has {found} {what}; {most} are allowed", f"{param}.data")
