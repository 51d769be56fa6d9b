"""Runs a server in this process: start, ready banner, drain, exit code."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

import cdlm
from cdlm import garbage
from cdlm.model.config import CheckpointError
from cdlm.scheduler.errors import EngineError
from cdlm.scheduler.process.client import EngineClient
from cdlm.server.app import create_app
from cdlm.server.http.descriptors import AcceptErrors, raise_limit
from cdlm.server.observe.request_log import print_bare_lines
from cdlm.server.observe.tracing import TracingError, open_tracing
from cdlm.server.services import Services
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec, TextError

if TYPE_CHECKING:
    from cdlm.server.observe.spans import Tracing

logger = logging.getLogger("cdlm")

# Gives load balancers time to see the failing readiness probe before requests are refused.
_READINESS_PAUSE_S = 0.5
# Connections that the kernel queues. asyncio's own backlog is smaller: without free file descriptors it retries that
# many accepts per second, and schedules as many again.
_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 16


def serve(settings: ServerSettings) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code of the process.

    0 after a drain, 1 when the port is taken or the checkpoint cannot be loaded, 130 after a second signal.
    """
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    print_bare_lines()
    raise_limit()
    # Its info lines repeat our own.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        settings = settings.fetched()
    except CheckpointError as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:  # Of a download.
        return 130
    try:
        tracing = open_tracing(settings.otlp_endpoint, settings.model_name, cdlm.__version__)
    except TracingError as error:
        if settings.otlp_endpoint is not None:
            logger.error("%s", error)
            return 1
        # The variables are meant for all programs on the machine: a wrong one must not stop the server.
        logger.warning("requests are not traced: %s", error)
        tracing = None
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        logger.error("cannot listen on %s:%d: %s", settings.host, settings.port, error.strerror or error)
        return 1
    with listener:
        try:
            return asyncio.run(_Runner(settings, listener, tracing).run())
        except OSError as error:
            logger.error("cannot serve: %s", error)
            return 1


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listens now, to fail early if the port is taken.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The runner handles signals, since it drains first.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_BACKLOG)  # asyncio has set its own backlog.


class _Runner:
    def __init__(self, settings: ServerSettings, listener: socket.socket, tracing: "Tracing | None") -> None:
        self._settings = settings
        self._tracing = tracing
        self._listener = listener
        self._client = EngineClient(settings.engine_options(), hang_timeout_s=settings.engine_hang_timeout_s)
        self._services = Services(settings, self._client)
        self._server = _Server(
            uvicorn.Config(
                create_app(self._services, tracing),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                backlog=_ACCEPTED_AT_ONCE,
                timeout_keep_alive=settings.keep_alive_timeout_s,
                # Requests that outlive the drain limit have been ended and only need to flush.
                timeout_graceful_shutdown=5,
            )
        )
        self._signals = 0
        self._exit_code = 0
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(AcceptErrors())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        await self._client.start()
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        loading = asyncio.create_task(self._load())
        draining = asyncio.create_task(self._drain())
        hurrying = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({serving, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (loading, draining, hurrying):
            task.cancel()
        if self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client.stop(), 1.0)
            # Tasks that are canceled at the end of the loop would log errors.
            logging.disable(logging.CRITICAL)
            return 130
        await asyncio.gather(self._client.stop(), *([self._tracing.close()] if self._tracing else []))
        failure = serving.exception()
        if failure is not None and not self._exit_code:  # Otherwise the reason was logged before.
            raise failure
        return self._exit_code

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stopping.set()
        else:
            self._server.force_exit = True
            self._hurry.set()

    async def _load(self) -> None:
        directory = Path(self._settings.model)
        try:
            with garbage.ignored():  # transformers is imported.
                codec = await asyncio.to_thread(TextCodec.load, directory, self._settings.chat_template)
            self._services.codec = codec
            ready = await self._client.wait_ready()
        except Exception as error:
            foreseen = isinstance(error, TextError | EngineError)
            logger.error("cannot serve %s: %s", directory, error if foreseen else f"{type(error).__name__}: {error}")
            self._exit_code = 1
            self._server.should_exit = True
            return
        if self._stopping.is_set():
            return
        host, port = self._listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        key = " -H 'Authorization: Bearer YOUR_KEY'" if self._settings.api_keys else ""
        path, prompt = "completions", '"prompt":"hello"'
        if codec.has_template:
            path, prompt = "chat/completions", '"messages":[{"role":"user","content":"hello"}]'
        body = f'{{"model":"{self._services.model_name}",{prompt},"max_tokens":96,"stream":true}}'
        page = f"\nOr open {url}/ in a browser." if self._settings.playground else ""
        logger.info(
            "%s is ready on %s: %.1fM parameters, %s, %s, context %d, %d KV pages of %d tokens\n"
            "Try it:\n  curl -N %s/v1/%s -H 'Content-Type: application/json'%s -d '%s'%s",
            self._services.model_name,
            url,
            ready.parameters / 1e6,
            ready.device,
            ready.dtype,
            ready.max_model_len,
            ready.num_pages,
            ready.page_size,
            url,
            path,
            key,
            body,
            page,
        )

    async def _drain(self) -> None:
        await self._stopping.wait()
        gate = self._services.gate
        logger.info(
            "shutting down; %d sequences may take %g s to finish",
            gate.in_flight,
            self._settings.drain_timeout_s,
        )
        self._services.leaving = True
        await asyncio.sleep(_READINESS_PAUSE_S)
        await gate.drain(self._settings.drain_timeout_s)
        self._server.should_exit = True
