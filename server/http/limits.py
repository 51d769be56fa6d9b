"""Limits on the size of headers and bodies, and request ids."""

import asyncio
import re
import uuid
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdlm.server.anthropic.error import is_anthropic
from cdlm.server.errors import ApiError

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 200
# How long the rest of a too large body is read and discarded after the response.
LINGER_S = 5.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """Adds ``x-request-id`` to each response: the client's if it is harmless, else a new one.

    The id is for logs only; the engine has its own ids. Responds 431 to too many or too large headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        known = len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) is not None
        request_id = given[0] if known else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        # Anthropic's clients read the other name.
        names = [b"x-request-id", b"request-id"] if is_anthropic(scope["path"]) else [b"x-request-id"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *((name, request_id) for name in names)]
            await send(message)

        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers) > MAX_HEADER_BYTES:
            error = ApiError(431, "The request headers are too large")
            await error.response(scope["path"])(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Responds 413 to bodies over ``max_bytes``, declared or chunked, before buffering them.

    Then reads and discards more of the body for ``LINGER_S`` seconds: closing the connection while the client sends
    would reset it, and the client would never see the response.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = ApiError(
            413,
            f"The request body is larger than {self._max} bytes",
            # The connection cannot be reused with an unread body.
            headers={"connection": "close"},
        )
        seen, ends = 0, False

        async def read() -> Message:
            nonlocal seen, ends
            message = await receive()
            seen += len(message.get("body", b""))
            ends = not message.get("more_body", False)  # Also true if the client left.
            return message

        async def counted() -> Message:
            message = await read()
            if seen > self._max:
                raise error
            return message

        async def lingering(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or seen <= self._max:
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    while not ends:
                        await read()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._max:
            seen = int(declared[:20])
            await error.response(scope["path"])(scope, receive, lingering)
        else:
            await self._app(scope, counted, lingering)
