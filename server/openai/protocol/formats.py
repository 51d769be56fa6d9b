"""``response_format`` and ``text.format``: the output format."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from cdlm.server.openai.fields.row import ANSWER_FORMAT, JSON_SCHEMA, TEXT_FORMAT
from cdlm.server.openai.protocol.conditions import either, exactly_one, given, implies, never
from cdlm.server.openai.protocol.fields import ApiModel

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


Kind = Literal["json", "regex", "choice", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint on answers: a JSON schema, a regular expression, a choice of texts, or a grammar.

    ``param`` is the field that says so.
    """

    kind: Kind
    value: Any
    param: str


class JsonSchema(ApiModel):
    """A named JSON schema. Answers always follow it, so ``strict`` makes no difference."""

    place = JSON_SCHEMA

    name: Name
    description: str = ""
    schema_: dict[str, JsonValue] = Field({"type": "object"}, alias="schema")
    strict: bool = True


class ResponseFormat(ApiModel):
    """Text, some JSON object, or JSON that a schema describes."""

    place = ANSWER_FORMAT
    conditions = (
        implies(given("type", "json_schema"), exactly_one(given("json_schema"), given("schema"))),
        implies(given("schema"), never(either(given("type", "text"), given("json_schema")))),
    )

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, JsonValue] | None = Field(
        None, alias="schema", description="As in llama.cpp: the schema without a name, also of a json_object."
    )

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise ValueError("json_schema is required with type 'json_schema'")
        if self.schema_ is not None and (self.type == "text" or self.json_schema is not None):
            raise ValueError("schema is for type 'json_object', or for 'json_schema' without json_schema")
        return self

    @property
    def schema_of_answer(self) -> dict[str, JsonValue] | None:
        """The schema of the answer; ``None`` for text."""
        if self.type == "text":
            return None
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.schema_
        # A json_object is an object even if the schema does not say so.
        return {"type": "object", **(self.schema_ or {})} if self.type == "json_object" else self.schema_


class TextFormat(ApiModel):
    """The output format of a response, where schema and name are beside the type."""

    place = TEXT_FORMAT
    conditions = (implies(given("type", "json_schema"), given("name")),)

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = Field(None, description="The name of the schema; required for one.")
    description: str = ""
    schema_: dict[str, JsonValue] = Field({"type": "object"}, alias="schema", description="For type json_schema.")
    strict: bool = True

    @model_validator(mode="after")
    def _name_is_there(self) -> "TextFormat":
        if self.type == "json_schema" and self.name is None:
            raise ValueError("name is required with type 'json_schema'")
        return self

    @property
    def schema_of_answer(self) -> dict[str, JsonValue] | None:
        """The schema of the answer; ``None`` for text."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return {"type": "object"}
            case "json_schema":
                return self.schema_
