"""Event streams: pings while idle, and an end for clients that leave or do not read."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import Request
from starlette.types import Message

from cdlm.server.answer import Answer
from cdlm.server.http import sse

pytestmark = pytest.mark.anyio


class Line(Answer):
    a: str


class Source:
    """Gives one event, then nothing until it is closed."""

    def __init__(self) -> None:
        self.started = self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        self.started = True
        try:
            yield sse.event(Line(a="\u2028"))
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_pings_while_idle_and_stops_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_INTERVAL_S", 0.01)
    source, gone, sent = Source(), asyncio.Event(), []

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        if len(sent) == 4:
            gone.set()

    await asyncio.wait_for(sse.EventStream(source.events())({}, receive, send), 5)
    assert sent[1:4] == [b'data: {"a":"\\u2028"}\n\n', b": ping\n\n", b": ping\n\n"]
    assert source.closed


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "STALL_TIMEOUT_S", 0.01)
    source = Source()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await asyncio.wait_for(sse.EventStream(source.events())({}, never, send), 5)
    assert source.closed


@pytest.mark.parametrize("turns", range(12))
async def test_a_request_cancelled_around_its_first_event_closes_its_source(turns: int) -> None:
    source = Source()

    async def respond() -> None:
        async def send(_: Message) -> None:
            pass

        await (await sse.open_stream(Request({"type": "http"}, never), source.events()))({}, never, send)

    task = asyncio.create_task(respond())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed is source.started


async def test_a_cancelled_response_closes_its_source() -> None:
    source = Source()

    async def send(_: Message) -> None:
        pass

    task = asyncio.create_task(sse.EventStream(source.events())({}, never, send))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed
