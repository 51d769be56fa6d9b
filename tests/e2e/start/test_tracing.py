"""Spans of a real server at a real OTLP/HTTP receiver."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.e2e.start.collector import Collector, collecting, values
from tests.e2e.start.test_process import refuse
from tests.support.command import cdlm
from tests.support.forks import script
from tests.support.places import ROOT
from tests.support.server.served import Server, running_server

SECRET = "zanzibar"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Collector]]:
    with collecting() as collector:
        log = tmp_path_factory.mktemp("traced") / "log"
        with running_server(log, "--otlp-endpoint", collector.url, **QUICK) as server:
            yield server, collector


def log_lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The log line of a request, once it is there."""
    found: list[dict[str, Any]] = []

    def written() -> bool:
        found[:] = [line for line in log_lines(server) if line["request_id"] == request_id]
        return bool(found)

    server.wait_for(written, 30)
    (line,) = found
    return line


def by_name(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def inside(outer: Span, inner: Span) -> bool:
    return (
        inner.parent_span_id == outer.span_id
        and outer.start_time_unix_nano <= inner.start_time_unix_nano
        and inner.end_time_unix_nano <= outer.end_time_unix_nano
    )


def test_a_completion_continues_the_trace_of_its_caller(traced: tuple[Server, Collector]) -> None:
    server, collector = traced
    answer = server.client.post(
        "/v1/completions",
        json={"prompt": f"{SECRET} has 3 apples.", "max_tokens": 70, "ignore_eos": True, "temperature": 0.5, "seed": 1},
        headers={"x-request-id": "whole", "traceparent": f"00-{TRACE}-{PARENT}-01"},
    ).json()
    span, below = collector.of("whole")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.name, span.kind) == ("text_completion cdlm-nano", Span.SPAN_KIND_SERVER)
    assert span.status.code == Status.STATUS_CODE_UNSET
    usage, found = answer["usage"], values(span.attributes)
    assert (
        found
        | {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "cdlm",
            "gen_ai.request.model": "cdlm-nano",
            "gen_ai.response.model": "cdlm-nano",
            "gen_ai.request.max_tokens": 70,
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.stream": False,
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": usage["prompt_tokens"],
            "gen_ai.usage.output_tokens": 70,
            "cdlm.denoise_steps": usage["denoise_steps"],
            "cdlm.forward_passes": usage["forward_passes"],
            "cdlm.blocks": 3,
            "http.response.status_code": 200,
        }
        == found
    )
    assert 0 < found["gen_ai.response.time_to_first_chunk"] < 60
    assert "error.type" not in found
    line = line_of(server, "whole")
    assert (line["trace_id"], line["engine_id"]) == (TRACE, found["cdlm.engine_id"])
    assert collector.resource["service.name"] == "cdlm-serve"
    assert set(collector.paths) == {"/v1/traces"}

    sequence = by_name(below, "sequence")
    assert inside(span, sequence)
    queue, first = by_name(below, "queue"), by_name(below, "prefill and first block")
    assert inside(sequence, queue)
    assert inside(sequence, first)
    assert queue.end_time_unix_nano == first.start_time_unix_nano
    assert len(below) == 3
    blocks = [values(event.attributes) for event in sequence.events]
    assert [block["cdlm.block"] for block in blocks] == [0, 1, 2]
    assert sum(block["cdlm.tokens"] for block in blocks) == 70
    assert sum(block["cdlm.denoise_steps"] for block in blocks) == usage["denoise_steps"]
    times = [event.time_unix_nano for event in sequence.events]
    assert times == sorted(times)
    assert first.end_time_unix_nano == times[0]


def test_a_stream_of_two_choices_is_one_span_with_two_sequences(traced: tuple[Server, Collector]) -> None:
    server, collector = traced
    server.client.headers["x-request-id"] = "streamed"
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 8, "n": 2, "stream_granularity": "step"}
    server.stream("/v1/chat/completions", body)
    del server.client.headers["x-request-id"]
    span, below = collector.of("streamed")
    assert (span.name, span.parent_span_id) == ("chat cdlm-nano", b"")
    found = values(span.attributes)
    assert (found["gen_ai.request.stream"], found["gen_ai.request.choice.count"]) == (True, 2)
    sequences = [child for child in below if child.name == "sequence"]
    assert sorted(values(child.attributes)["cdlm.choice"] for child in sequences) == [0, 1]
    # Parts of a block are no blocks of their own, and lose no token.
    tokens = [values(e.attributes)["cdlm.tokens"] for child in sequences for e in child.events]
    assert sum(tokens) == found["gen_ai.usage.output_tokens"]
    assert len(tokens) == found["cdlm.blocks"] == 2
    assert line_of(server, "streamed")["trace_id"] == span.trace_id.hex()


def test_a_client_that_leaves_is_a_cancelled_span(traced: tuple[Server, Collector]) -> None:
    server, collector = traced
    body = {"prompt": SECRET, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    headers = {"x-request-id": "left"}
    with server.client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
        next(response.iter_lines())
    span, below = collector.of("left")
    found = values(span.attributes)
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "cancelled")
    assert (found["error.type"], found["cdlm.outcome"]) == ("cancelled", "cancelled")
    assert found["http.response.status_code"] == 200
    assert 0 < found["gen_ai.usage.output_tokens"] < 1900
    sequence = by_name(below, "sequence")
    assert values(sequence.attributes)["error.type"] == "cancelled"
    assert sequence.status.code == Status.STATUS_CODE_ERROR
    line = line_of(server, "left")
    assert (line["outcome"], line["status"], line["trace_id"]) == ("cancelled", 499, span.trace_id.hex())
    server.wait_idle()


def test_a_bad_request_is_a_span_with_its_status(traced: tuple[Server, Collector]) -> None:
    server, collector = traced
    headers = {"x-request-id": "bad", "traceparent": "00-nonsense-01"}
    body = {"prompt": SECRET, "max_tokens": SECRET}
    assert server.client.post("/v1/completions", json=body, headers=headers).status_code == 400
    span, below = collector.of("bad")
    assert (span.name, span.parent_span_id, below) == ("text_completion", b"", [])
    found = values(span.attributes)
    assert (found["http.response.status_code"], found["error.type"]) == (400, "400")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert "gen_ai.request.model" not in found
    line = line_of(server, "bad")
    assert (line["status"], line["trace_id"]) == (400, span.trace_id.hex())


def test_no_text_of_a_client_is_in_a_span(traced: tuple[Server, Collector]) -> None:
    _, collector = traced
    assert len(collector.spans) > 10  # Those of the tests above, of which every prompt holds the word.
    assert not any(SECRET.encode() in body for body in collector.bodies)


def test_a_collector_that_is_gone_harms_nothing(traced: tuple[Server, Collector]) -> None:
    """The last test of this server, which ends."""
    server, collector = traced
    collector.close()
    answers = [server.complete(seed=1)["choices"][0]["text"] for _ in range(5)]
    assert len(set(answers)) == 1
    server.wait_for(lambda: "Failed to export" in server.log.read_text() or "retrying" in server.log.read_text(), 60)
    server.complete()
    server.wait_idle()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_the_last_spans_are_sent_before_the_exit(tmp_path: Path) -> None:
    # Asked for by the variable alone, with a pause between two sendings that this test would not live to see.
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_SERVICE_NAME": "mine"}
    with collecting() as collector:
        with running_server(tmp_path / "log", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables) as server:
            server.complete()
            assert collector.spans == []
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(60) == 0, server.log.read_text()
        assert "text_completion cdlm-nano" in [span.name for span in collector.spans]
        assert collector.resource["service.name"] == "mine"


def test_a_collector_that_never_answers_does_not_hold_the_exit_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from cdlm.server.observe.spans import Tracing

    monkeypatch.setattr("cdlm.server.observe.spans._FLUSH_LIMIT_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracing = Tracing(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", "m", "1")
        tracing.request("/v1/completions", []).end({"outcome": "finished", "status": 200}, 200)
        started = time.monotonic()
        asyncio.run(tracing.close())
        # The exporter itself would wait for ten seconds.
        assert 0.9 < time.monotonic() - started < 6


def test_without_it_nothing_is_imported() -> None:
    code = """
import sys
import cdlm.server.run
from cdlm.server.app import create_app
from cdlm.server.command_line import parse_settings
from cdlm.server.observe.tracing import open_tracing
settings = parse_settings([])
assert open_tracing(settings.otlp_endpoint, "m", "1") is None
kept = ("opentelemetry.sdk", "opentelemetry.exporter", "cdlm.server.observe.spans")
print([name for name in sys.modules if name.startswith(kept)])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_addresses_are_refused() -> None:
    for address in ("localhost:4318", "grpc://collector:4317", "http://", "http://host:bad"):
        result = cdlm("serve", "--otlp-endpoint", address)
        assert result.exit_code != 0
        assert "--otlp-endpoint" in result.stderr
        assert "OTLP/HTTP" in result.stderr
    assert "CDLM_OTLP_ENDPOINT" in refuse(CDLM_OTLP_ENDPOINT="nowhere")


def without_packages(*flags: str) -> str:
    """What ``cdlm serve`` says where the packages of tracing are not installed."""
    code = "import sys; sys.modules['opentelemetry.sdk'] = None; from cdlm.cli.main import main; main()"
    done = subprocess.run(
        script.command(code, "serve", *flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_flag_without_its_packages_says_what_to_install() -> None:
    message = without_packages("--otlp-endpoint", "http://localhost:4318")
    assert "--otlp-endpoint" in message
    assert "cdlm-serve[tracing]" in message
