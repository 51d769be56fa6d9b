"""``response_format``: the form of a chat's answer."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from server.protocol.common import ApiModel

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class JsonSchema(ApiModel):
    """A named JSON schema. Answers always follow it, so ``strict`` makes no difference."""

    name: Name
    description: str = ""
    schema_: dict[str, JsonValue] = Field({"type": "object"}, alias="schema")
    strict: bool = True


class ResponseFormat(ApiModel):
    """Text, some JSON object, or JSON that a schema describes."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is required with type 'json_schema'")
        return self

    @property
    def schema_of_answer(self) -> dict[str, JsonValue] | None:
        """What the answer must be valid under; ``None`` for text."""
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None
