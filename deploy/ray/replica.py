"""A replica: the server's application and its engine process, called through Ray instead of a socket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from ray import serve
from starlette.types import Message

from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.process.client import EngineClient
from cdlm.server.app import create_app
from cdlm.server.services import Services
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec


@serve.deployment
class Replica:
    """One engine on one device. It is there once the model is loaded."""

    async def __init__(self, options: dict[str, Any]) -> None:  # type: ignore[misc]
        settings = await asyncio.to_thread(ServerSettings(**options).fetched)
        self._client = EngineClient(settings.engine_options())
        self._services = Services(settings, self._client)
        self._app = create_app(self._services)
        await self._client.start()
        codec = await asyncio.to_thread(TextCodec.load, Path(settings.model), settings.chat_template)
        self._services.codec = codec
        await self._client.wait_ready()

    async def answer(
        self,
        key: bytes | None,  # noqa: ARG002
        scope: dict[str, Any],
        body: bytes,
    ) -> AsyncGenerator[Message, None]:
        """Yields the application's ASGI messages; ``key`` is for the router. Leaving early aborts the request."""
        with contextlib.suppress(EngineStartError):
            # An engine that died is started again; to refuse meanwhile would draw more requests here.
            await self._client.wait_ready()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await asyncio.Event().wait()  # The client leaves by cancellation.
            return {}

        work = asyncio.ensure_future(self._app(scope, receive, messages.put))
        work.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield message
            work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def metrics(self) -> tuple[str, str]:
        """The name of this replica, and its metrics in the Prometheus text format."""
        page, _ = self._services.metrics.render("")
        return serve.get_replica_context().replica_id.unique_id, page.decode()

    async def check_health(self) -> None:
        """Raises when the engine is gone or hangs; the third time in a row Ray replaces the replica."""
        if not self._services.ready:
            raise RuntimeError(self._client.failure or "the engine is not ready")
        if self._services.hung:
            raise RuntimeError("the engine runs sequences but has stopped stepping")

    async def __del__(self) -> None:
        # After the drain: Ray has waited for requests, or run out of patience.
        await self._client.stop()
