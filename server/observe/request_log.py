"""The request log: one JSON line per POST, and its span if tracing is on. Neither contains prompts or answers."""

import json
import logging
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cdlm.scheduler.messages import GenerateRequest
from cdlm.server.access.keys import ApiKey

if TYPE_CHECKING:
    from cdlm.server.observe.spans import RequestSpan, SequenceSpan, Tracing

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "cancelled", "error"]

_CLIENT_GONE = 499
_PATH_CHARACTERS = 200


def print_bare_lines() -> None:
    """Logs the lines to stderr without a prefix, so that log collectors read each as one JSON object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


class RequestRecord:
    """The log record of one HTTP request, filled while it is served and written after the response.

    ``sent`` is the status that the client got, ``status`` the final one: a stream that fails has sent 200 before.
    ``figures`` describes the work, if it was begun; ``key`` is the API key, if keys are required.
    """

    def __init__(self, path: str, span: "RequestSpan | None" = None) -> None:
        self.path = path[:_PATH_CHARACTERS]
        self.sent: int | None = None
        self.outcome: Outcome | None = None
        self.status: int | None = None
        self.figures: dict[str, object] = {}
        self.key: ApiKey | None = None
        self._span = span
        self._started = time.monotonic()

    def asked(self, request: GenerateRequest, sequences: int, *, streamed: bool) -> None:
        """Records that ``sequences`` sequences like ``request`` will run."""
        if self._span is not None:
            self._span.asked(request, sequences, streamed=streamed)

    def sequence(self, number: int) -> AbstractContextManager["SequenceSpan | None"]:
        """The span of sequence ``number``, as a context; ``None`` without tracing."""
        return nullcontext() if self._span is None else self._span.sequence(number)

    def worked(self, outcome: Outcome, status: int, figures: dict[str, object]) -> None:
        """Records the outcome of the work."""
        self.outcome, self.status, self.figures = outcome, status, figures

    def close(self, request_id: str) -> None:
        """Writes the log line and ends the span; ``request_id`` is the HTTP request's id."""
        status = self.status or self.sent or _CLIENT_GONE
        outcome = self.outcome or (
            "cancelled" if status == _CLIENT_GONE else "finished" if status < 400 else "error"
        )  # fmt: skip
        elapsed = time.monotonic() - self._started
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "path": self.path,
            "outcome": outcome,
            "status": status,
            "e2e_ms": round(elapsed * 1000, 1),
            **self.figures,
        }
        if self.key is not None:
            line["key"] = self.key.name
        if self._span is not None:
            line["trace_id"] = self._span.trace_id
            self._span.end(line, self.sent)
        logger.info("%s", json.dumps(line))


class RequestLog:
    """Middleware that gives each POST a ``RequestRecord`` (``request.state.record``) and closes it afterwards."""

    def __init__(self, app: ASGIApp, tracing: "Tracing | None" = None) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        span = None if self._tracing is None else self._tracing.request(scope["path"], scope["headers"])
        record = RequestRecord(scope["path"], span)
        state = scope.setdefault("state", {})
        state["record"] = record

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.sent = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            record.close(state.get("request_id", ""))
