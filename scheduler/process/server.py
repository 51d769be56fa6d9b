"""The engine process: receives requests, runs steps while there is work, sends the outputs of each step."""

import logging
import os
import signal
import sys

import setproctitle
import zmq

from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError, RequestError
from cdlm.scheduler.messages import (
    AbortRequest,
    BlockOutput,
    EngineFailed,
    EngineInput,
    EngineOutput,
    GenerateRequest,
    ScoreRequest,
    ShutdownRequest,
    StepBegun,
    StepReport,
    decoder,
    encode,
)
from cdlm.scheduler.options import EngineOptions

logger = logging.getLogger(__name__)

PROCESS_NAME = "cdlm-engine"
IDLE_POLL_MS = 500  # How often an idle engine checks that its parent lives.


class EngineServer:
    """Runs an engine between its two sockets."""

    def __init__(self, engine: Engine, inbox: "zmq.Socket[bytes]", outbox: "zmq.Socket[bytes]", *, parent: int) -> None:
        self.engine = engine
        self.inbox, self.outbox = inbox, outbox
        self._decoder = decoder(EngineInput)
        self._parent = parent

    def send(self, message: EngineOutput) -> None:
        """Sends one message to the API process."""
        self.outbox.send(encode(message))

    def run(self) -> None:
        """Serves until a shutdown message arrives or the parent process is gone."""
        self.send(self.engine.describe())
        self.send(StepReport(outputs=[], stats=self.engine.stats()))
        while os.getppid() == self._parent:
            changed = False
            wait = 0 if self.engine.busy else IDLE_POLL_MS
            while self.inbox.poll(wait):
                if not self._receive(self.inbox.recv()):
                    return
                changed, wait = True, 0
            if self.engine.busy:
                batch = self.engine.schedule()
                if batch.begun:
                    self.send(StepBegun(request_ids=batch.begun))
                self.send(self.engine.run(batch))
                if not self.engine.busy:
                    self.engine.check()
            else:
                self.engine.check_ranks()
                if changed:
                    self.send(StepReport(outputs=[], stats=self.engine.stats()))

    def _receive(self, payload: bytes) -> bool:
        """Handles one message; false means shut down."""
        message = self._decoder.decode(payload)
        match message:
            case GenerateRequest() | ScoreRequest():
                try:
                    self.engine.add(message)
                except RequestError as error:
                    self._refuse(message.request_id, str(error))
                except Exception as error:  # A bug must not end the other requests.
                    logger.exception("a request could not be queued")
                    self.engine.abort(message.request_id)
                    self._refuse(message.request_id, type(error).__name__)
            case AbortRequest(request_id=request_id):
                self.engine.abort(request_id)
            case ShutdownRequest():
                return False
        return True

    def _refuse(self, request_id: str, reason: str) -> None:
        refused = BlockOutput(request_id=request_id, token_ids=[], finish_reason="error", error=reason)
        self.send(StepReport(outputs=[refused], stats=self.engine.stats()))


def main() -> int:
    """Entry point of an engine process, with the arguments INBOX, OUTBOX, PARENT and LEVEL.

    Reads ``EngineOptions`` from standard input. PARENT is the process id of the API process, which may exit while the
    engine loads; LEVEL is the minimum log level, as a number.
    """
    setproctitle.setproctitle(PROCESS_NAME)
    logging.basicConfig(level=int(sys.argv[4]), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # The parent decides when to stop.
    options = decoder(EngineOptions).decode(sys.stdin.buffer.read())
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbox.connect(sys.argv[1])
    outbox.connect(sys.argv[2])
    try:
        try:
            engine = Engine(options)
        except Exception as error:
            if not isinstance(error, EngineStartError | OSError):  # Unexpected.
                logger.exception("the engine could not be loaded")
            reason = str(error) if isinstance(error, EngineStartError) else f"{type(error).__name__}: {error}"
            outbox.send(encode(EngineFailed(message=reason)))
            return 1
        try:
            EngineServer(engine, inbox, outbox, parent=int(sys.argv[3])).run()
        finally:
            engine.close()
        return 0
    finally:
        context.destroy(linger=1000)
