"""What turns tracing on, and what it says when it cannot be."""

import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cdlm.server.observe.tracing import TracingError, check_endpoint, open_tracing

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
ADDRESS = "http://localhost:4318"
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (ADDRESS, ADDRESS + "/v1/traces"),
        (ADDRESS + "/", ADDRESS + "/v1/traces"),
        ("https://host/otlp", "https://host/otlp/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_the_path_of_traces_is_put_behind_an_address(given: str, whole: str) -> None:
    assert check_endpoint(given) == whole


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {BASE: ""},
        {BASE: ADDRESS, "OTEL_TRACES_EXPORTER": "none"},
        {BASE: ADDRESS, "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_what_does_not_ask_for_it(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Were it opened, this would be an error.
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    assert open_tracing(None, "m", "1") is None


def test_a_variable_that_cannot_be_honored_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, ADDRESS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TracingError, match="OTEL_EXPORTER_OTLP_PROTOCOL='grpc': .*http/protobuf"):
        open_tracing(None, "m", "1")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    with pytest.raises(TracingError, match=rf"{BASE}: .*pip install 'cdlm-serve\[tracing\]'"):
        open_tracing(None, "m", "1")


class Receiver(BaseHTTPRequestHandler):
    """Takes everything, and keeps the paths."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def receivers() -> Iterator[list[ThreadingHTTPServer]]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Receiver) for _ in range(2)]
    for server in servers:
        server.paths = []  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.anyio
@pytest.mark.parametrize("by_variable", [False, True])
async def test_no_proxy_is_asked_for_a_collector_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, receivers: list[ThreadingHTTPServer], by_variable: bool
) -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    collector, proxy = receivers
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
    address = f"http://127.0.0.1:{collector.server_port}"
    for base, got in ((address, collector), ("http://collector.invalid:4318", proxy)):
        if by_variable:
            monkeypatch.setenv(BASE, base)
        tracing = open_tracing(None if by_variable else base, "m", "1")
        assert tracing is not None
        tracing.request("/v1/completions", []).end({"outcome": "finished", "status": 200}, 200)
        await tracing.close()
        assert [len(server.paths) for server in receivers] == ([1, 0] if got is collector else [1, 1])  # type: ignore[attr-defined]
