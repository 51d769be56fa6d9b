"""The engine's client in the API process: starts, watches and restarts the engine, and sends it requests."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable

import zmq
import zmq.asyncio

from cdlm.scheduler import child
from cdlm.scheduler.errors import EngineDeadError, EngineStartError
from cdlm.scheduler.messages import (
    AbortRequest,
    BlockOutput,
    EngineFailed,
    EngineInput,
    EngineOutput,
    EngineReady,
    EngineStats,
    GenerateRequest,
    ScoreRequest,
    ShutdownRequest,
    StepBegun,
    StepReport,
    decoder,
    encode,
)
from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.process.flights import Flights
from cdlm.scheduler.process.sockets import socket_directory

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0  # An engine that lived this long resets the backoff.
STOP_TIMEOUT_S = 5.0


class EngineClient:
    """A supervised engine process. All methods belong to one event loop.

    Args:
        options: what the engine loads.
        hang_timeout_s: seconds without a step, with requests in flight, after which the engine is killed and restarted.

    Attributes:
        ready: what the engine has loaded; ``None`` while there is no loaded engine.
        failure: why no engine runs and none will be started; ``None`` otherwise.
        restarts: how often the engine was restarted after it died.
        stats: the figures of the latest step report.
        last_step_time: ``time.monotonic()`` of the latest step report.
    """

    def __init__(self, options: EngineOptions, *, hang_timeout_s: float = math.inf) -> None:
        self.options = options
        self.hang_timeout_s = hang_timeout_s
        self.stats_listeners: list[Callable[[EngineStats], None]] = []
        self._context = zmq.asyncio.Context()
        self._inbox: zmq.asyncio.Socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.ready: EngineReady | None = None
        self._settled = asyncio.Event()
        self._loaded_once = False
        self.failure: str | None = None
        self._reason: str | None = None  # Why the last start failed.
        self.restarts = 0
        self.stats = EngineStats()
        self.last_step_time = time.monotonic()
        self._flights = Flights()
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """Number of unfinished requests."""
        return len(self._flights)

    @property
    def quiet_s(self) -> float:
        """Seconds since the last step while a loaded engine has requests in flight; else 0."""
        if not self._flights or self.ready is None:
            return 0.0
        return time.monotonic() - max(self.last_step_time, self._flights.busy_since)

    @property
    def pid(self) -> int | None:
        """Process id of the running engine, if any."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts the engine in the background and returns at once."""
        self._supervisor = asyncio.create_task(self._supervise())
        self._supervisor.add_done_callback(self._supervised)

    async def stop(self) -> None:
        """Asks the engine to exit, kills it if it does not, and fails all requests in flight."""
        self._stopping = True
        if self._inbox is not None:
            with contextlib.suppress(zmq.ZMQError):
                # Not awaited: an engine that is still loading reads it later, and a dying one never does.
                self._send_soon(ShutdownRequest())
        if self._supervisor is not None:
            ended, _ = await asyncio.wait({self._supervisor}, timeout=STOP_TIMEOUT_S)
            if not ended:
                if self._process is not None and self._process.returncode is None:
                    self._process.kill()
                self._supervisor.cancel()
                await asyncio.gather(self._supervisor, return_exceptions=True)
        self._flights.fail("the engine was stopped", queued=True)  # Requests that waited for a restart.
        self._context.destroy(linger=0)

    async def wait_ready(self) -> EngineReady:
        """Waits until the engine has loaded, and returns what it loaded.

        Raises:
            EngineStartError: it cannot load; the message says why.
        """
        while self.ready is None:
            if self.failure is not None:
                raise EngineStartError(self.failure)
            self._settled.clear()
            await self._settled.wait()
        return self.ready

    async def generate(self, request: GenerateRequest | ScoreRequest) -> AsyncGenerator[BlockOutput, None]:
        """Yields the request's outputs as they arrive; the last has a finish reason. A scoring request has one output.

        Closing the iterator early, or cancellation, aborts the request in the engine.

        If the engine dies before it begins the request, the next engine receives it.

        Raises:
            EngineDeadError: the engine is not ready, died while working on the request, or will not be restarted.
        """
        if self.ready is None:
            raise EngineDeadError(self.failure or "the engine is not ready")
        flight = self._flights.open(request)
        finished = False
        try:
            with contextlib.suppress(EngineDeadError):  # The next engine receives it, or it fails.
                await self._send(request)
            while not finished:
                output = await flight.next()
                finished = output.finish_reason is not None
                yield output
        except EngineDeadError:
            finished = True
            raise
        finally:
            self._flights.close(flight)
            if not finished and self.ready is not None:
                self._send_soon(AbortRequest(request_id=request.request_id))

    async def _send(self, message: EngineInput) -> None:
        if self._inbox is None:
            raise EngineDeadError("the engine is not ready")
        sent = asyncio.ensure_future(self._inbox.send(encode(message)))
        try:
            await asyncio.shield(sent)
        except asyncio.CancelledError:
            if sent.cancelled():  # Closing the socket cancelled it, not the caller.
                raise EngineDeadError("the engine died") from None
            raise
        except zmq.ZMQError as error:
            raise EngineDeadError(f"the engine died: {error}") from error

    def _send_soon(self, message: EngineInput) -> None:
        """Sends without awaiting: usable while the caller is being cancelled."""
        if self._inbox is not None:
            sent = asyncio.ensure_future(self._inbox.send(encode(message)))
            # Retrieves the exception, which asyncio would log otherwise; a dead engine needs no message.
            sent.add_done_callback(lambda done: None if done.cancelled() else done.exception())

    async def _supervise(self) -> None:
        """Runs engine processes one after the other; gives up only if the first one cannot start."""
        backoff = FIRST_BACKOFF_S
        while True:
            started, self._reason = time.monotonic(), None
            try:
                await self._run_once()
            except Exception as error:
                self._reason = f"the engine process could not be started: {error or type(error).__name__}"
            finally:
                self.ready = None
                self._flights.fail("the engine died while the request was in flight", queued=self._stopping)
            if self._stopping:
                return
            if not self._loaded_once:
                self.failure = self._reason or self._silent_end()
                return
            self.restarts += 1
            if time.monotonic() - started > STEADY_S:
                backoff = FIRST_BACKOFF_S
            logger.error("%s; starting it again in %.1f s", self._reason or "the engine died", backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_S)

    def _supervised(self, supervisor: asyncio.Task[None]) -> None:
        """The supervisor has ended: fails all waiting requests."""
        if not self._stopping and self.failure is None:
            error = None if supervisor.cancelled() else supervisor.exception()
            self.failure = f"the engine is not watched any more: {error!r}"
            logger.error("%s", self.failure)
        self._flights.fail(self.failure or "the engine was stopped", queued=True)
        self._settled.set()

    def _silent_end(self) -> str:
        """Describes the exit of a process that reported no reason."""
        code = self._process.returncode if self._process is not None else None
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else "died"
        return f"the engine process {how} while it loaded the model; its log says more"

    async def _run_once(self) -> None:
        """Runs one engine process to its end, on new sockets: messages of an earlier process are never read."""
        with socket_directory() as directory, contextlib.ExitStack() as held:
            inbox, outbox = (held.enter_context(self._context.socket(kind)) for kind in (zmq.PUSH, zmq.PULL))
            addresses = (f"ipc://{directory}/in", f"ipc://{directory}/out")
            for socket, address in zip((inbox, outbox), addresses, strict=True):
                socket.set_hwm(0)
                socket.linger = 0
                socket.bind(address)
            level = str(logging.getLogger("cdlm").getEffectiveLevel())
            command = child.command("cdlm.scheduler.process.server", *addresses, str(os.getpid()), level)
            process = await asyncio.create_subprocess_exec(
                *command, env=child.environment(), stdin=asyncio.subprocess.PIPE
            )
            self._process, self._inbox = process, inbox
            reader = asyncio.create_task(self._read(outbox))
            watchdog = asyncio.create_task(self._kill_when_hung(process))
            try:
                await process.communicate(encode(self.options))
                with contextlib.suppress(TimeoutError):  # Its last messages may still arrive.
                    await asyncio.wait_for(asyncio.shield(reader), 0.2)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()  # Otherwise its pipes outlive the event loop.
                self.ready, self._inbox = None, None
                for task in (reader, watchdog):
                    task.cancel()
                await asyncio.gather(reader, watchdog, return_exceptions=True)

    async def _kill_when_hung(self, process: asyncio.subprocess.Process) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.hang_timeout_s / 10))
            if self.quiet_s > self.hang_timeout_s:
                logger.error("the engine has not stepped for %.1f s; killing it", self.quiet_s)
                process.kill()
                return

    async def _read(self, outbox: zmq.asyncio.Socket) -> None:
        reader = decoder(EngineOutput)
        while True:
            match reader.decode(await outbox.recv()):
                case EngineReady() as message:
                    self.ready, self._loaded_once = message, True
                    self.last_step_time = time.monotonic()
                    for request in self._flights.take_again():
                        self._send_soon(request)
                    self._settled.set()
                case EngineFailed(message=reason):
                    self._reason = reason
                    return
                case StepBegun(request_ids=request_ids):
                    self._flights.begin(request_ids)
                case StepReport() as report:
                    self._deliver(report)

    def _deliver(self, report: StepReport) -> None:
        self.last_step_time = time.monotonic()
        self.stats = report.stats
        self._flights.deliver(report.outputs)
        for listener in self.stats_listeners:
            listener(report.stats)
