"""OpenTelemetry spans of requests, sent over OTLP/HTTP. Imported only if tracing is on."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

import requests
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context

from cdlm.scheduler.messages import BlockOutput, GenerateRequest
from cdlm.server.http.loopback import is_loopback
from cdlm.server.observe.tracing import asked_endpoint
from cdlm.server.text.update import Update

_FLUSH_LIMIT_S = 4.0
_UNNAMED = "unknown_service"

# Operation names of the GenAI semantic conventions; other paths generate nothing.
_OPERATIONS = {
    "/completions": "text_completion",
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
}

# Field of the log line -> attribute of the span.
_ATTRIBUTES = {
    "request_id": "cdlm.request_id",
    "engine_id": "cdlm.engine_id",
    "outcome": "cdlm.outcome",
    "finish_reasons": "gen_ai.response.finish_reasons",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "denoise_steps": "cdlm.denoise_steps",
    "forward_passes": "cdlm.forward_passes",
    "tokens_per_forward": "cdlm.tokens_per_forward",
    "blocks": "cdlm.blocks",
    "queue_ms": "cdlm.queue_ms",
}


class Tracing:
    """Creates the spans of requests and sends them from a background thread.

    Ignores proxies for a collector on this machine.

    ``endpoint`` is the full URL; ``None`` uses the ``OTEL_EXPORTER_OTLP_*`` variables. The provider is not global: it
    sends no other library's spans.

    Raises:
        ValueError: an OpenTelemetry variable has an invalid value.
    """

    def __init__(self, endpoint: str | None, model_name: str, version: str) -> None:
        resource = Resource.create({SERVICE_VERSION: version})
        if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: "cdlm-serve"}))
        # Its exit hook could wait forever for a collector; close() has a limit.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        session = requests.Session()
        session.trust_env = not is_loopback(endpoint or asked_endpoint() or "")
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, session=session)))
        self._tracer = self._provider.get_tracer("cdlm-serve", version)
        self._model_name = model_name

    def request(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> "RequestSpan":
        """Starts the span of a request, as a child of the span in its headers, if any."""
        carrier: dict[str, str] = {}
        for raw, value in headers:
            name = raw.decode("latin-1")
            # Joined as HTTP prescribes; a repeated traceparent thereby becomes invalid, as it should.
            carrier[name] = f"{carrier[name]},{value.decode('latin-1')}" if name in carrier else value.decode("latin-1")
        operation = _OPERATIONS.get(path.removeprefix("/v1"))
        span = self._tracer.start_span(
            operation or "POST",
            propagate.extract(carrier),
            SpanKind.SERVER,
            attributes={"http.request.method": "POST"},
        )
        if operation is not None:
            span.set_attributes({"gen_ai.operation.name": operation, "gen_ai.provider.name": "cdlm"})
        return RequestSpan(self._tracer, span, operation, self._model_name)

    async def close(self) -> None:
        """Sends the remaining spans; gives up after some seconds if the collector does not respond."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _FLUSH_LIMIT_S)


class _Clock:
    """A clock in nanoseconds since 1970 that never runs backwards within a request."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return time.monotonic_ns() + self._offset


class RequestSpan:
    """The span of one HTTP request."""

    def __init__(self, tracer: Tracer, span: Span, operation: str | None, model_name: str) -> None:
        self.trace_id = format_trace_id(span.get_span_context().trace_id)
        self._tracer = tracer
        self._span = span
        self._operation = operation
        self._model_name = model_name

    def asked(self, request: GenerateRequest, sequences: int, *, streamed: bool) -> None:
        """Records that the request was valid, and that ``sequences`` sequences like it will run."""
        attributes: dict[str, Any] = {
            "gen_ai.request.model": self._model_name,
            "gen_ai.response.model": self._model_name,
            "gen_ai.request.stream": streamed,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.params.temperature,
        }
        if sequences != 1:
            attributes["gen_ai.request.choice.count"] = sequences
        self._span.update_name(f"{self._operation} {self._model_name}")
        self._span.set_attributes(attributes)

    def sequence(self, number: int) -> "SequenceSpan":
        """The span of one of its sequences, as a context."""
        return SequenceSpan(self._tracer, self._span, number)

    def end(self, line: Mapping[str, Any], sent: int | None) -> None:
        """Ends the span with the fields of the log line; ``sent`` is the HTTP status that the client got, if any."""
        attributes = {name: line[field] for field, name in _ATTRIBUTES.items() if field in line}
        if line.get("ttft_ms") is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = line["ttft_ms"] / 1000
        if "prompt_tokens_details" in line:
            attributes["gen_ai.usage.cache_read.input_tokens"] = line["prompt_tokens_details"]["cached_tokens"]
        if sent is not None:
            attributes["http.response.status_code"] = sent
        if line["outcome"] != "finished":
            # No message, which may quote the client's text.
            kind = "cancelled" if line["outcome"] == "cancelled" else str(line["status"])
            attributes["error.type"] = kind
            self._span.set_status(StatusCode.ERROR, kind)
        self._span.set_attributes(attributes)
        self._span.end()


class SequenceSpan:
    """The span of one sequence, with child spans for its wait and its first block, and one event per block."""

    def __init__(self, tracer: Tracer, request: Span, number: int) -> None:
        self._tracer = tracer
        self._clock = _Clock()
        self._started = self._clock.now()
        self._span = tracer.start_span(
            "sequence",
            set_span_in_context(request),
            attributes={"cdlm.choice": number},
            start_time=self._started,
        )
        self._blocks = 0
        self._tokens = 0
        self._all_tokens = 0
        self._steps = 0
        self._passes = 0

    def __enter__(self) -> Self:
        return self

    def block(self, block: BlockOutput, update: Update) -> None:
        """Records a block or a part of one, and the update of the answer that it made."""
        self._tokens += len(update.token_ids)
        if update.finish_reason is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", [update.finish_reason])
        if block.partial:
            return
        now = self._clock.now()
        figures = {
            "cdlm.block": self._blocks,
            "cdlm.tokens": self._tokens,
            "cdlm.denoise_steps": block.denoise_steps,
            "cdlm.forward_passes": block.forward_passes,
        }
        if self._blocks == 0:
            admitted = min(now, self._started + int(block.queue_seconds * 1e9))
            self._child("queue", self._started, admitted, {})
            # One span for both: the first denoise step also computes the prompt.
            self._child(
                "prefill and first block", admitted, now, {**figures, "cdlm.cached_tokens": block.cached_tokens}
            )
        self._span.add_event("block", figures, now)
        self._blocks += 1
        self._all_tokens += self._tokens
        self._tokens = 0
        self._steps += block.denoise_steps
        self._passes += block.forward_passes

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
            name = "cancelled" if cancelled else type(error).__name__
            self._span.set_attribute("error.type", name)
            self._span.set_status(StatusCode.ERROR, name)
        self._span.set_attributes(
            {
                "gen_ai.usage.output_tokens": self._all_tokens + self._tokens,
                "cdlm.blocks": self._blocks,
                "cdlm.denoise_steps": self._steps,
                "cdlm.forward_passes": self._passes,
            }
        )
        self._span.end(self._clock.now())

    def _child(self, name: str, start: int, end: int, attributes: Mapping[str, Any]) -> None:
        context = set_span_in_context(self._span)
        self._tracer.start_span(name, context, attributes=attributes, start_time=start).end(end)
