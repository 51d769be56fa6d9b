"""The OpenAPI document: the bodies and responses of each route."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi.routing import APIRoute, APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cdlm.server.http.sse import event
from cdlm.server.openai.schema.examples import EXAMPLES
from cdlm.server.operation import DESCRIBED, Operation

_STATUSES = {
    400: "A field, the body or its type is wrong; `param` names the field",
    401: "No key that is known",
    404: "No such model",
    408: "The body took too long",
    413: "The body is too large",
    415: "The body is compressed",
    429: "Too many requests are waiting",
    431: "The headers are too large",
    500: "A bug or a failed step",
    503: "Loading, stopping, or the engine has died",
    504: "The request took too long",
    529: "Loading, stopping, or the engine has died",
}
_RETRIED = (429, 503, 529)
_REF = "#/components/schemas/"
_SHAPES = {"type", "$ref", "anyOf", "oneOf", "enum"}


def operations(routers: Iterable[APIRouter], prefix: str = "") -> dict[str, Operation]:
    """Path -> description, for all described routes."""
    return {
        prefix + route.path_format: DESCRIBED[route.endpoint]
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    }


def complete(document: dict[str, Any], described: dict[str, Operation]) -> dict[str, Any]:
    """Adds bodies, responses, errors and examples to FastAPI's document, in place."""
    bodies = {op.body for op in described.values() if op.body}
    answers = {model for op in described.values() for model in (op.answer, op.event, op.error) if model}
    named = sorted(bodies | answers, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in named], ref_template=_REF + "{model}")
    schemas: dict[str, Any] = definitions["$defs"]
    for model in bodies:
        _allow_null(schemas, schemas[model.__name__])
    document["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        },
    }
    for path, operation in described.items():
        [shown] = document["paths"][path].values()
        shown["tags"] = [operation.tag]
        shown["responses"] = {"200": _success(operation)} | {
            str(status): _failure(status, operation.error) for status in sorted(operation.errors)
        }
        if operation.body is not None:
            shown["requestBody"] = {"required": True, "content": _json(operation.body)}
        if 401 in operation.errors:
            shown["security"] = [{}, {"key": []}, {"header": []}]
    return document


def _allow_null(schemas: dict[str, Any], schema: dict[str, Any]) -> None:
    """Allows null for every optional field of a schema, in nested objects too."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        for inner in _refs(field):
            _allow_null(schemas, schemas[inner])
        choices = field.get("anyOf", [field])
        null_is_fine = {"type": "null"} in choices or None in field.get("enum", []) or "x-verdict" in field
        if name in required or null_is_fine or not _SHAPES & field.keys():
            continue
        about = {key: field.pop(key) for key in ("description", "default", "title") if key in field}
        schema["properties"][name] = {"anyOf": [*field.get("anyOf", [field]), {"type": "null"}], **about}


def _refs(schema: Any) -> Iterator[str]:
    """Yields the names of all schemas that ``schema`` refers to."""
    if isinstance(schema, dict):
        if isinstance(ref := schema.get("$ref"), str):
            yield ref.removeprefix(_REF)
        for part in schema.values():
            yield from _refs(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _refs(part)


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF + model.__name__}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    example = {"example": EXAMPLES[model.__name__]} if model.__name__ in EXAMPLES else {}
    return {"application/json": {"schema": _ref(model), **example}}


def _success(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if operation.answer is not None:
        content = _json(operation.answer)
    if operation.event is not None:
        content["text/event-stream"] = _events(operation.event, operation.error)
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    return {"description": "Success", "headers": headers, "content": content}


def _failure(status: int, error: type[BaseModel]) -> dict[str, Any]:
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    if status in _RETRIED:
        headers["retry-after"] = {"schema": {"type": "string"}}
    return {"description": _STATUSES[status], "headers": headers, "content": _json(error)}


def _events(model: type[BaseModel], error: type[BaseModel]) -> dict[str, Any]:
    """The content of a stream whose events have ``model`` as data; in OpenAPI 3.1 the schema describes each event."""
    example = EXAMPLES[model.__name__]
    named = "type" in example  # Those of responses and messages, with one for errors among them and no mark at the end.
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": _ref(model) if named else {"anyOf": [_ref(model), _ref(error)]},
    }
    schema = {
        "type": "object",
        "description": "With stream.",
        "properties": {
            "event": {"type": "string"},
            "data": data if named else {"anyOf": [data, {"const": "[DONE]"}]},
        },
        "required": ["data"],
    }
    return {"schema": schema, "example": event(model.model_validate(example), example.get("type")).decode()}
