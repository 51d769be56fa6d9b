"""Health probes, version and metrics. None of them blocks."""

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from cdlm.server.answer import Answer, reply
from cdlm.server.errors import ApiError
from cdlm.server.operation import ALWAYS, Operation
from cdlm.server.services import Services

router = APIRouter()


class State(Answer):
    """The response of a probe that passes."""

    status: Literal["ready", "alive"]


class Version(Answer):
    """The version of the server."""

    version: str


@router.get("/health")
@router.get("/readyz")
@router.get("/ping")
@Operation(State, (*ALWAYS, 503))
async def readyz(request: Request) -> Response:
    """200 while requests are served; 503 while loading, dead or draining."""
    services: Services = request.app.state.services
    if services.ready:
        return reply(State(status="ready"))
    if services.stopping:
        reason = "The server is shutting down"
    else:
        reason = services.engine.failure or "The model is not loaded"
    return ApiError(503, reason, retry_after=2).response()


@router.get("/livez")
@Operation(State, (*ALWAYS, 503))
async def livez(request: Request) -> Response:
    """503 if the engine hangs with sequences in flight, or will not be restarted; else 200."""
    services: Services = request.app.state.services
    if services.engine.failure is not None:
        return ApiError(503, services.engine.failure).response()
    if services.hung:
        return ApiError(503, "The engine runs sequences but has stopped stepping").response()
    return reply(State(status="alive"))


@router.get("/version")
@Operation(Version)
async def version(request: Request) -> Response:
    """The version of the server."""
    services: Services = request.app.state.services
    return reply(Version(version=services.version))


@router.get("/metrics")
@Operation(None)
async def metrics(request: Request) -> Response:
    """All metrics in the Prometheus text format, or in OpenMetrics if the Accept header asks for it."""
    services: Services = request.app.state.services
    content, content_type = services.metrics.render(request.headers.get("accept", ""))
    return Response(content, headers={"content-type": content_type})
