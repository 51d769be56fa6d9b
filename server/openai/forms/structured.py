"""Output formats of requests, by the field names of several servers."""

import json
from typing import Annotated, Any

from pydantic import Field, JsonValue, PlainValidator, model_validator

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import STRUCTURED
from cdlm.server.openai.protocol.conditions import exactly_one, given
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.protocol.formats import Constraint, Kind, ResponseFormat

MAX_CHOICES = 1024

_FLAG = "json_object"
_FORMS = ("json", "json_object", "regex", "choice", "grammar")


def check_schema(value: object) -> dict[str, JsonValue]:
    """Validates a JSON schema, an object or JSON text; raises ``ValueError`` for other values."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("must be a JSON schema, and this text is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON schema: an object, or one as JSON text")
    return value


Schema = Annotated[
    dict[str, JsonValue],
    PlainValidator(
        check_schema,
        json_schema_input_type=dict[str, JsonValue] | Annotated[str, Field(pattern=r"^\s*\{[\s\S]*\}\s*$")],
    ),
]
Text = Annotated[str, Field(min_length=1)]


class StructuredOutputs(ApiModel):
    """vLLM's ``structured_outputs``; exactly one of the first five fields must be set."""

    place = STRUCTURED
    conditions = (exactly_one(*(given(name) for name in _FORMS if name != _FLAG), given(_FLAG, True)),)

    json_: Schema | None = Field(None, alias="json", description="A JSON schema, as an object or as text.")
    json_object: bool = Field(False, description="true for some JSON object.")
    regex: Text | None = Field(None, description="A regular expression that the whole answer matches.")
    choice: list[Text] | None = Field(
        None, min_length=1, max_length=MAX_CHOICES, description="Texts, one of which is the answer."
    )
    grammar: Text | None = Field(None, description="A grammar in the Lark dialect of llguidance, or in GBNF.")
    disable_any_whitespace: bool = Field(False, description="Without effect: JSON has no free white space here.")

    @model_validator(mode="before")
    @classmethod
    def _one_is_there(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        asked = [name for name in _FORMS if data.get(name) is not None and (name, data[name]) != (_FLAG, False)]
        if len(asked) != 1:
            raise ValueError(f"exactly one of {', '.join(_FORMS)} is needed")
        return data

    @property
    def constraint(self) -> Constraint:
        """The constraint that is set."""
        if self.json_object:
            return Constraint("json", {"type": "object"}, "structured_outputs.json_object")
        forms: tuple[tuple[Kind, object], ...] = (
            ("json", self.json_), ("regex", self.regex), ("choice", self.choice), ("grammar", self.grammar)
        )  # fmt: skip
        return next(Constraint(kind, value, f"structured_outputs.{kind}") for kind, value in forms if value is not None)


class FormFields(ApiModel):
    """Fields for the output format; at most one may be set."""

    response_format: ResponseFormat | None = Field(
        None, description="Whether the answer is free text, a JSON object, or JSON of a schema."
    )
    structured_outputs: StructuredOutputs | None = Field(None, description="As in vLLM.")
    json_schema: Schema | None = Field(None, description="Another name of structured_outputs.json.")
    regex: Text | None = Field(None, description="Another name of structured_outputs.regex.")
    ebnf: Text | None = Field(None, description="Another name of structured_outputs.grammar.")
    grammar: Text | None = Field(None, description="Another name of structured_outputs.grammar.")

    @property
    def constraint(self) -> Constraint | None:
        """The constraint on the answer; ``None`` for free text. Raises ``ApiError`` 400 if several fields are set."""
        found: list[Constraint] = []
        schema = self.response_format and self.response_format.schema_of_answer
        if schema is not None:
            found.append(Constraint("json", schema, "response_format"))
        if self.structured_outputs is not None:
            found.append(self.structured_outputs.constraint)
        names: tuple[tuple[Kind, str], ...] = (
            ("json", "json_schema"), ("regex", "regex"), ("grammar", "ebnf"), ("grammar", "grammar")
        )  # fmt: skip
        found += [Constraint(kind, value, name) for kind, name in names if (value := getattr(self, name)) is not None]
        if len(found) > 1:
            first, second = (each.param.partition(".")[0] for each in found[:2])
            raise invalid(f"{second} and {first} both say what the answer is; send one of them", second)
        return found[0] if found else None
