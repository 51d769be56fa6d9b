"""The gateway: takes requests from Ray's HTTP proxy, finds them a replica, and another one if that dies."""

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from cdlm.server.errors import ApiError
from cdlm.server.http.auth import ApiKeyAuth
from cdlm.server.http.limits import BodyLimit
from cdlm.server.http.sse import event
from cdlm.server.settings import ServerSettings
from deploy.ray.affinity import prompt_key
from deploy.ray.metrics import merged

# A request that kills replicas must not kill them all.
ATTEMPTS = 4
METRICS_TIMEOUT_S = 5.0
_SCOPE = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
)


@serve.deployment
@serve.ingress()
class Gateway:
    """Holds a request's body until the first byte of its answer has left, so that it can be asked for again."""

    def __init__(self, replicas: DeploymentHandle, options: dict[str, Any]) -> None:
        self._replicas = replicas.options(stream=True)
        self._settings = ServerSettings(**options)

    def __serve_build_asgi_app__(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/metrics", self.metrics, middleware=[Middleware(ApiKeyAuth, keys=self._settings.api_keys)]),
                Route("/{path:path}", _Endpoint(self)),
            ],
            middleware=[Middleware(BodyLimit, max_bytes=self._settings.max_body_bytes)],
            exception_handlers={ApiError: _refusal},
        )

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """All replicas' metrics, each with the label ``replica``; one that dies meanwhile is left out.

        Raises:
            ApiError: 503 when there is none, or one does not answer in time: all its places are taken.
        """
        asked = self._replicas.broadcast("metrics")
        try:
            answers = await asked.results_async(timeout_s=METRICS_TIMEOUT_S, return_exceptions=True)
        except TimeoutError:
            raise ApiError(503, "A replica did not answer in time", retry_after=2) from None
        except DeploymentUnavailableError:
            raise _unavailable() from None
        pages = dict(answer for answer in answers if not isinstance(answer, BaseException))
        return Response(merged(pages), headers={"content-type": CONTENT_TYPE_LATEST})

    async def forward(self, scope: Scope, body: bytes, send: Send) -> None:
        """Sends one answer: a replica's, or the error that none could give one.

        Nothing is sent before the first part of a body. Up to there a replica that dies, or whose engine does, costs
        a new attempt. After it a stream ends with an error event and any other answer breaks off.

        Raises:
            ApiError: 429 when too many requests wait, 503 without replicas and after the last attempt.
        """
        for attempt in range(1, ATTEMPTS + 1):
            exchange = _Exchange(send, last=attempt == ATTEMPTS)
            messages = self._replicas.answer.remote(
                prompt_key(body), {name: scope[name] for name in _SCOPE if name in scope}, body
            )
            try:
                async for message in messages:
                    if not await exchange.take(message):
                        break
                else:
                    return
            except DeploymentUnavailableError:
                raise _unavailable() from None
            except BackPressureError:
                raise ApiError(429, "Too many requests are waiting; retry later", retry_after=1) from None
            except RayActorError:
                if exchange.begun:
                    await exchange.break_off()
                    return
            finally:
                # Ends the request in the replica's engine if the client has left.
                messages.cancel()
        raise ApiError(503, "The replicas that worked on the request died", retry_after=2)


class _Exchange:
    """One attempt: keeps the head of the answer back until there is a body."""

    def __init__(self, send: Send, *, last: bool) -> None:
        self._send = send
        self._last = last
        self._head: Message | None = None
        self._streams = False
        self.begun = False

    async def take(self, message: Message) -> bool:
        """Passes a message on; false if another replica should be asked instead."""
        if message["type"] == "http.response.start":
            self._head = message
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            return message["status"] != 503 or self._last
        if self._head is not None:
            head, self._head = self._head, None
            self.begun = True
            await self._send(head)
        await self._send(message)
        return True

    async def break_off(self) -> None:
        """Ends an answer whose beginning the client has."""
        if not self._streams:
            raise RuntimeError("the replica died within an answer")
        error = ApiError(503, "The replica that worked on the request died", retry_after=2)
        await self._send({"type": "http.response.body", "body": event(error.body()), "more_body": False})


class _Endpoint:
    """The gateway as an ASGI application; Starlette takes an object that is not a function as one."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await self._gateway.forward(scope, body, send)


def _unavailable() -> ApiError:
    return ApiError(503, "There is no replica", retry_after=10)


async def _refusal(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, ApiError)
    return error.response()
