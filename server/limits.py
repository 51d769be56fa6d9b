"""What keeps one client from hurting the rest: body size, request ids, admission."""

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdlm.server.errors import ApiError
from cdlm.server.keys import ApiKey
from cdlm.server.metrics import Metrics
from cdlm.server.quotas import Quota

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 32 * 1024
MAX_HEADERS = 200
# How long the rest of a body that is too large is read, and thrown away, after the answer.
LINGER_S = 5.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestId:
    """Puts ``x-request-id`` on every response: the client's when it is harmless, else a fresh one.

    The id is for people and logs only; the engine uses ids of its own. Answers 431 to too many or too
    large headers.
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

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers) > MAX_HEADER_BYTES:
            await ApiError(431, "The request headers are too large").response()(scope, receive, send_with_id)
            return
        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Answers 413 to bodies over ``max_bytes``, declared or chunked, before all of it is buffered.

    Then it reads on for a while and forgets what it reads: a connection that is closed while the client still sends is
    reset, and the client never sees the answer.
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
            # The unread rest of the body makes the connection useless for another request.
            headers={"connection": "close"},
        )
        seen, ends = 0, False

        async def read() -> Message:
            nonlocal seen, ends
            message = await receive()
            seen += len(message.get("body", b""))
            ends = not message.get("more_body", False)  # Or the client has left.
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
            await error.response()(scope, receive, lingering)
        else:
            await self._app(scope, counted, lingering)


class Gate:
    """Admission: how many sequences the engine has in hand, and whether new ones may come."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self.in_flight = 0
        self.draining = False
        self._quotas: dict[str, Quota] = {}
        self._metrics = metrics
        self._idle = asyncio.Event()
        self._idle.set()
        self.cut_listeners: set[Callable[[ApiError], None]] = set()

    def check_size(self, sequences: int, param: str) -> None:
        """Raises ``ApiError`` 400 naming ``param`` for a request that could never be admitted."""
        if sequences > self.limit:
            message = f"{sequences} sequences are asked for; this server takes at most {self.limit} at once"
            raise ApiError(400, message, param=param)

    def quota(self, key: ApiKey) -> Quota:
        """What ``key`` uses of this gate."""
        return self._quotas.setdefault(key.name, Quota(key))

    @contextmanager
    def admit(self, sequences: int, tokens: int = 0, key: ApiKey | None = None) -> Iterator[None]:
        """Holds places for ``sequences`` sequences of together ``tokens`` tokens.

        Raises ``ApiError``: 503 while draining, 429 when full or when ``key`` has used what it may, 400 where it never
        may.
        """
        if self.draining:
            self._metrics.rejected("draining")
            raise ApiError(503, "The server is shutting down", retry_after=10)
        if self.in_flight + sequences > self.limit:
            self._metrics.rejected("queue_full")
            raise ApiError(429, "Too many requests are waiting; retry later", retry_after=1)
        with ExitStack() as held:
            try:
                held.enter_context(self.quota(key).hold(sequences, tokens) if key else nullcontext())
            except ApiError as error:
                if error.status == 429:
                    self._metrics.rejected("rate_limited")
                raise
            self.in_flight += sequences
            self._idle.clear()
            try:
                yield
            finally:
                self.in_flight -= sequences
                if self.in_flight == 0:
                    self._idle.set()

    async def drain(self, timeout_s: float) -> bool:
        """Lets running requests finish for ``timeout_s`` seconds, then cuts them; True when all finished."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("drain limit reached with %d sequences running; ending them", self.in_flight)
            error = ApiError(503, "The server is shutting down", retry_after=10)
            for listener in list(self.cut_listeners):
                listener(error)
            return False
        return True
