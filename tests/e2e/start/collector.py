"""A collector of traces: a real OTLP/HTTP receiver that keeps the spans it is sent."""

import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.server.listener import listening


class Collector:
    """What came in: ``bodies`` as they were sent, ``spans`` in the order of their arrival; after ``close``, nothing."""

    def __init__(self, url: str, close: Callable[[], None]) -> None:
        self.url, self.close = url, close
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}

    def take(self, path: str, body: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(body)
        self.paths.append(path)
        self.bodies.append(body)
        for group in message.resource_spans:
            self.resource = values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += scope.spans

    def of(self, request_id: str, limit_s: float = 30.0) -> tuple[Span, list[Span]]:
        """The span of an HTTP request, and those of its trace below it, by their start; waits for it."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for span in list(self.spans):
                if values(span.attributes).get("cdlm.request_id") == request_id:
                    below = [s for s in self.spans if s.trace_id == span.trace_id and s.span_id != span.span_id]
                    return span, sorted(below, key=lambda s: s.start_time_unix_nano)
            time.sleep(0.05)
        raise AssertionError(f"no span of {request_id} within {limit_s:g} s")


def values(attributes: Any) -> dict[str, Any]:
    """Attributes by name, as Python's own types."""
    return {item.key: _plain(item.value) for item in attributes}


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ExitStack() as stack:
        collector = Collector(stack.enter_context(listening(Handler)), stack.close)
        yield collector
