"""What answers are made of: models that routes fill in, and that the OpenAPI document describes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response


class Answer(BaseModel):
    """A JSON object with these fields and no others. A field with a default is left out unless it is set."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What is wrong, for people and for programs."""

    message: str
    type: str
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: str | None


class Error(Answer):
    """Every answer other than 2xx, and an error in a stream."""

    error: ErrorDetail


def as_json(model: BaseModel, **how: Any) -> str:
    """The JSON of an answer: what is set, under the names that clients know."""
    return model.model_dump_json(exclude_unset=True, by_alias=True, **how)


def reply(answer: Answer, status: int = 200) -> Response:
    """An answer that is sent as a whole."""
    return Response(as_json(answer), status, media_type="application/json")
