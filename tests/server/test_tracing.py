"""What turns tracing on, and what it says when it cannot be."""

import os
import sys

import pytest

from server.tracing import TracingError, check_endpoint, open_tracing

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


def test_a_variable_that_cannot_be_honoured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, ADDRESS)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(TracingError, match="OTEL_EXPORTER_OTLP_PROTOCOL='grpc': .*http/protobuf"):
        open_tracing(None, "m", "1")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    with pytest.raises(TracingError, match=rf"{BASE}: .*install cdlm-serve\[tracing\]"):
        open_tracing(None, "m", "1")
