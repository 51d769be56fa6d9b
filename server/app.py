"""The ASGI application: routes, and around them limits, keys and request ids."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from server import chat, completions, health, models, responses
from server.auth import ApiKeyAuth
from server.errors import install_handlers
from server.limits import BodyLimit, RequestId
from server.protocol.chat import ChatRequest
from server.protocol.completions import CompletionRequest
from server.protocol.responses import ResponsesRequest
from server.protocol.tokens import DetokenizeRequest, TokenizeRequest
from server.services import Services

_BODIES: dict[str, type[BaseModel]] = {
    "/completions": CompletionRequest,
    "/chat/completions": ChatRequest,
    "/responses": ResponsesRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


def create_app(services: Services) -> ASGIApp:
    """The application around ``services``; starts nothing by itself."""
    app = FastAPI(
        title="cdlm-serve",
        version=services.version,
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from a Host header that the client chose.
        redirect_slashes=False,
    )
    app.state.services = services
    for router in (completions.router, chat.router, responses.router, models.router):
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    app.include_router(health.router)
    install_handlers(app)
    app.openapi = _with_bodies(app.openapi)  # type: ignore[method-assign]

    settings = services.settings
    wrapped: ASGIApp = BodyLimit(app, settings.max_body_bytes)
    wrapped = ApiKeyAuth(wrapped, settings.api_keys)
    if settings.cors_origins:
        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    return RequestId(wrapped)


def _with_bodies(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Adds the request bodies, which the routes parse themselves, to the OpenAPI document."""

    def document() -> dict[str, Any]:
        schema = openapi()
        post = schema["paths"]["/v1/completions"]["post"]
        if "requestBody" not in post:
            refs, definitions = models_json_schema(
                [(model, "validation") for model in _BODIES.values()],
                ref_template="#/components/schemas/{model}",
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            for path, model in _BODIES.items():
                content = {"application/json": {"schema": refs[model, "validation"]}}
                schema["paths"]["/v1" + path]["post"]["requestBody"] = {"required": True, "content": content}
        return schema

    return document
