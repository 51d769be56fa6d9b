"""Base models of JSON responses, which the OpenAPI document describes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response


class Answer(BaseModel):
    """A JSON response with exactly these fields. A field with a default is omitted unless it is set."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """The error of a response: message, type, code and field."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: str | None


class Error(Answer):
    """Every answer other than 2xx, and an error in a stream."""

    error: ErrorDetail


def as_json(model: BaseModel, **how: Any) -> str:
    """The JSON of a response: the fields that are set, by their API names."""
    return model.model_dump_json(exclude_unset=True, by_alias=True, **how)


def reply(answer: Answer, status: int = 200) -> Response:
    """The HTTP response for ``answer``, not streamed."""
    return Response(as_json(answer), status, media_type="application/json")
