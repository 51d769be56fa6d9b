"""The ASGI application: routes, wrapped in limits, API keys, request ids and the request log."""

from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from cdlm.server import health
from cdlm.server.anthropic.messages import route as messages
from cdlm.server.errors import install_handlers
from cdlm.server.http.auth import ApiKeyAuth
from cdlm.server.http.head import Head
from cdlm.server.http.limits import BodyLimit, RequestId
from cdlm.server.http.root_path import RootPath
from cdlm.server.observe.request_log import RequestLog
from cdlm.server.openai.chat import route as chat
from cdlm.server.openai.completions import route as completions
from cdlm.server.openai.decisions import route as decisions
from cdlm.server.openai.edit import route as edit
from cdlm.server.openai.fim import route as fim
from cdlm.server.openai.responses import route as responses
from cdlm.server.openai.schema.document import complete, operations
from cdlm.server.openai.tokens import route as models
from cdlm.server.page import reference
from cdlm.server.page.playground import playground_routes
from cdlm.server.services import Services

if TYPE_CHECKING:
    from cdlm.server.observe.spans import Tracing


# Served under /v1 and at the root.
_API = (
    completions.router,
    fim.router,
    edit.router,
    chat.router,
    responses.router,
    decisions.router,
    messages.router,
    models.router,
)
_OTHERS = (health.router, reference.router)

OPERATIONS = operations(_API, "/v1") | operations(_OTHERS)


def create_app(services: Services, tracing: "Tracing | None" = None) -> ASGIApp:
    """Builds the application around ``services``; starts nothing."""
    app = FastAPI(
        title="cdlm-serve",
        version=services.version,
        description="OpenAI's completions, chats, responses and decisions, Anthropic's messages, and Inception's "
        "infilling and edits, from a block-causal diffusion model. What lies under /v1 also answers without it. A "
        "field is honored or refused with a 400 that names it; null means absent.",
        docs_url=None,
        redoc_url=None,
        # A redirect would be built from a Host header that the client chose.
        redirect_slashes=False,
    )
    app.state.services = services
    for router in _API:
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    for router in _OTHERS:
        app.include_router(router)
    settings = services.settings
    page = playground_routes() if settings.playground else []
    app.router.routes += page
    install_handlers(app)
    openapi = app.openapi
    # FastAPI's document, completed with the bodies and responses of routes that it does not know.
    app.openapi = cache(lambda: complete(openapi(), OPERATIONS))  # type: ignore[method-assign]

    wrapped: ASGIApp = BodyLimit(app, settings.max_body_bytes)
    wrapped = ApiKeyAuth(wrapped, settings.api_keys, open_paths=frozenset(route.path for route in page))
    if settings.cors_origins:
        wrapped = CORSMiddleware(
            wrapped,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    wrapped = Head(RequestLog(RequestId(wrapped), tracing))
    return RootPath(wrapped, settings.root_path) if settings.root_path else wrapped
