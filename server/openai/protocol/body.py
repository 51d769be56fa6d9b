"""Parses and validates request bodies; an error is a 400 that names the field."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from cdlm.server.errors import ApiError, ClientGone, invalid
from cdlm.server.openai.fields.table import UNWANTED

Body = TypeVar("Body", bound=BaseModel)

_READ_TIMEOUT_S = 60.0


async def read_body(request: Request, model: type[Body]) -> Body:
    """Reads and validates the request body as a ``model``.

    Raises ``ApiError``: 400 for invalid JSON or fields, 408 for a body that takes over a minute, 413 for one over the
    limit, 415 for a content encoding. Raises ``ClientGone`` if the client disconnects.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "Content-Encoding is not supported; send the body as plain JSON")
    content_type = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise invalid(f"Content-Type must be application/json, not {content_type[:100]!r}")
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            raw = await request.body()
    except TimeoutError:
        raise ApiError(408, f"The request body took longer than {_READ_TIMEOUT_S:g} seconds") from None
    except ClientDisconnect:
        raise ClientGone from None
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise invalid("The request body must be a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise describe(error, data) from None
    except RecursionError:
        raise invalid("The request body is nested too deeply") from None


def scrub(value: object) -> object:
    """Replaces lone surrogates, which cannot be encoded, by U+FFFD in all strings of a JSON value."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [scrub(item) for item in value]
    if isinstance(value, dict):
        return {str(scrub(key)): scrub(item) for key, item in value.items()}
    return value


def parse_json(body: bytes) -> object:
    """Parses JSON strictly: no NaN, limited nesting. Raises ``ApiError`` 400."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON value")

    try:
        value: object = json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise invalid("The request body is nested too deeply") from None
    except ValueError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    return scrub(value) if b"\\ud" in body.lower() else value


def describe(error: ValidationError, data: object) -> ApiError:
    """The 400 for the first error in ``data``; ``param`` is the path of the field.

    Its ``code`` is set if the published schema forbids the value, not if only the model or other fields do.
    """
    first = error.errors(include_url=False)[0]
    path, here = "", data
    missing = len(first["loc"]) - 1 if first["type"] == "missing" else None
    for place, step in enumerate(first["loc"]):
        # Skips parts of the location that are not fields, for example branches of a union.
        if isinstance(here, dict) and (step in here or place == missing):
            path += f".{step}" if path else str(step)
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            path += f"[{step}]"
            here = here[step]
    if first["type"] == UNWANTED:
        field = first["ctx"]["field"]
        path += f".{field}" if path and not field.startswith("[") else field
        return ApiError(400, f"{path} {first['msg']}", param=path, code="unknown_parameter")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("model_type", "dict_type"):
        message = "Input should be an object"  # pydantic's message names a class.
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{path}: {message}" if path else message, param=path or None, code=code)
