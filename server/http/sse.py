"""Server-sent events, and cancellation when the client disconnects."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cdlm.server.answer import as_json
from cdlm.server.errors import ClientGone

logger = logging.getLogger(__name__)

PING_INTERVAL_S = 15.0
STALL_TIMEOUT_S = 60.0
DONE = b"data: [DONE]\n\n"

Result = TypeVar("Result")


def event(answer: BaseModel, name: str | None = None) -> bytes:
    """Encodes one event, with ``name`` if given. ASCII only, since some clients split lines at Unicode line ends."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + as_json(answer, ensure_ascii=True).encode() + b"\n\n"


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Returns the result of ``work``; if the client disconnects first, cancels it and raises ``ClientGone``."""

    async def wait() -> Result:
        return await work

    working = asyncio.create_task(wait())
    leaving = asyncio.create_task(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        await _end(working, leaving)


async def open_stream(request: Request, source: AsyncGenerator[bytes, None]) -> "EventStream":
    """Waits for the first event, so that an error before it has its own HTTP status; returns the stream."""
    try:
        first = await unless_gone(request, anext(source))
    except BaseException:
        # Canceled just as the event became ready: close the source now, not at garbage collection.
        await source.aclose()
        raise
    return EventStream(source, first)


class EventStream(Response):
    """Streams encoded events, ``first`` before the others, and a comment after every 15 s without an event.

    Closes the source when the client disconnects or has not read for a minute.
    """

    def __init__(self, source: AsyncGenerator[bytes, None], first: bytes | None = None) -> None:
        self._source = source
        self._first = first
        self.status_code = 200
        self.background = None
        self.init_headers(
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(sending, leaving)
            await self._source.aclose()
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        waiting: asyncio.Task[bytes | None] | None = None
        try:
            while True:
                waiting = waiting or asyncio.create_task(self._next())
                done, _ = await asyncio.wait({waiting}, timeout=PING_INTERVAL_S)
                body = waiting.result() if done else b": ping\n\n"
                if body is None:
                    break
                if done:
                    waiting = None
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            logger.warning("a client has not read its stream for %g s; ending it", STALL_TIMEOUT_S)
        finally:
            # The source must be idle before it can be closed.
            if waiting is not None:
                await _end(waiting)

    async def _next(self) -> bytes | None:
        first, self._first = self._first, None
        return await anext(self._source, None) if first is None else first


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
