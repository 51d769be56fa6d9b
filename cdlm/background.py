"""Runs the server's application in a thread of this process, without sockets."""

import asyncio
import concurrent.futures
import json
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.types import ASGIApp, Message

from cdlm.errors import EngineError, LoadError, RequestError
from cdlm.model.config import CheckpointError
from cdlm.scheduler import errors as engine_errors
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.client import EngineClient
from cdlm.server.app import create_app
from cdlm.server.services import Services
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec, TextError

Result = TypeVar("Result")
Json = dict[str, Any]

_SETTINGS = {*EngineOptions.model_fields, "revision", "chat_template", "trust_request_chat_template"}
# No limits on waiting time and size for calls from Python.
_UNBOUNDED: dict[str, Any] = {"max_waiting_requests": 2**31, "max_body_bytes": 2**40, "request_timeout_s": 1e9}


class BackgroundApp:
    """The application and its engine process, callable from any thread; they end with ``close`` or garbage collection.

    Args:
        settings: those of ``ServerSettings`` that say what is loaded and how it runs.

    Raises:
        LoadError: a setting is wrong, or the model cannot be loaded.
    """

    def __init__(self, settings: Json) -> None:
        if unknown := sorted(settings.keys() - _SETTINGS):
            raise LoadError(f"{unknown[0]} is not a setting of LLM; settings: {', '.join(sorted(_SETTINGS))}")
        try:
            # No variable's name has a "=": the settings come from the arguments only.
            self.settings = ServerSettings(**settings, **_UNBOUNDED, api_key=[], _env_prefix="=").fetched()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise LoadError(f"{name}: {first['msg']}" if name else first["msg"]) from None
        except CheckpointError as error:
            raise LoadError(str(error)) from None
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="cdlm", daemon=True)
        thread.start()
        self.client = EngineClient(self.settings.engine_options())
        self._end = weakref.finalize(self, _end, self._loop, thread, self.client)
        try:
            self._app = self.run(_start(self.settings, self.client))
        except (TextError, engine_errors.EngineError) as error:
            self.close()
            raise LoadError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the engine, and fails all waiting calls."""
        self._end()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs ``work`` on the application's event loop and waits for its result; an interrupt cancels it."""
        if self._loop.is_closed():
            work.close()
            raise EngineError("the LLM is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise EngineError("the LLM was closed") from None
        except BaseException:
            future.cancel()
            raise

    async def answer(self, path: str, body: Json) -> Json:
        """Posts ``body`` to a route and returns its JSON; raises ``RequestError`` or ``EngineError``."""
        await self._restarted()
        answer = b"".join([part async for part in _messages(self._app, path, body)])
        found: Json = json.loads(answer)
        return found

    def events(self, path: str, body: Json) -> Iterator[Json]:
        """Yields the events of a stream; closing it aborts the request. Raises ``RequestError`` or ``EngineError``."""
        self.run(self._restarted())
        events = _events(_messages(self._app, path, body))
        try:
            while True:
                try:
                    yield self.run(anext(events))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self.run(events.aclose())

    async def _restarted(self) -> None:
        # Waits for a restart of the engine, since callers from Python do not retry.
        try:
            await self.client.wait_ready()
        except engine_errors.EngineStartError as error:
            raise EngineError(str(error)) from None


async def _start(settings: ServerSettings, client: EngineClient) -> ASGIApp:
    services = Services(settings, client)
    await client.start()
    services.codec = await asyncio.to_thread(TextCodec.load, Path(settings.model), settings.chat_template)
    await client.wait_ready()
    return create_app(services)


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, client: EngineClient) -> None:
    async def stop() -> None:
        await client.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await loop.shutdown_default_executor()  # Its threads would outlive the loop.

    stopped = asyncio.run_coroutine_threadsafe(stop(), loop)
    stopped.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    if threading.current_thread() is not thread:  # Garbage collection may run in it.
        thread.join()
        loop.close()


async def _messages(app: ASGIApp, path: str, body: Json) -> AsyncGenerator[bytes, None]:
    """Yields the parts of the response's body; raises error responses."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    unread: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # Cancellation stands for a disconnect.
        return unread.pop()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def respond() -> None:
        try:
            await app(scope, receive, messages.put)
        finally:
            messages.put_nowait(None)

    work = asyncio.create_task(respond())
    status, failed = 0, b""
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status >= 400:
                failed += message.get("body", b"")
            else:
                yield message.get("body", b"")
        work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    if failed:
        raise _error(json.loads(failed)["error"], of_request=status < 500)


async def _events(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[Json, None]:
    rest = b""
    try:
        async for part in parts:
            *lines, rest = (rest + part).split(b"\n\n")
            for line in lines:
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                found = json.loads(line.removeprefix(b"data: "))
                if "error" in found:
                    raise _error(found["error"], of_request=found["error"]["type"] == "invalid_request_error")
                yield found
    finally:
        await parts.aclose()


def _error(error: Json, *, of_request: bool) -> RequestError | EngineError:
    return RequestError(error["message"], error["param"]) if of_request else EngineError(error["message"])
