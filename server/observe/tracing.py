"""Opens tracing if it is configured. Imports OpenTelemetry only then."""

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from cdlm.server.observe.spans import Tracing

_TRACES_PATH = "/v1/traces"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class TracingError(Exception):
    """Tracing is configured wrongly; the message names the flag or variable and the reason."""


def check_endpoint(url: str) -> str:
    """Completes ``url`` with the path of traces.

    Raises:
        ValueError: ``url`` is not an HTTP URL, or OpenTelemetry is not installed.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("expected the address of an OTLP/HTTP collector, such as http://localhost:4318")
    _require_packages()
    return url if parts.path.endswith(_TRACES_PATH) else url.rstrip("/") + _TRACES_PATH


def open_tracing(endpoint: str | None, model_name: str, version: str) -> "Tracing | None":
    """Opens tracing to ``endpoint``, else as the ``OTEL_*`` variables say; ``None`` if neither is set.

    Spans have the model's name and the server's version.

    Raises:
        TracingError: a variable is invalid or asks for something unsupported.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is None:
        variable = _asking_variable()
        if variable is None:
            return None
        _check_protocol()
    else:
        variable = "--otlp-endpoint"
    try:
        _require_packages()
        from cdlm.server.observe.spans import Tracing

        return Tracing(None if endpoint is None else check_endpoint(endpoint), model_name, version)
    except ValueError as error:
        raise TracingError(f"{variable}: {error}") from error


def asked_endpoint() -> str | None:
    """The endpoint in the environment; empty or ``None`` if not set."""
    variable = _asking_variable()
    return None if variable is None else os.environ[variable]


def _asking_variable() -> str | None:
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return None
    return next((name for name in _ENDPOINTS if os.environ.get(name)), None)


def _check_protocol() -> None:
    name = next((name for name in _PROTOCOLS if os.environ.get(name)), None)
    if name is not None and os.environ[name].strip().lower() != "http/protobuf":
        raise TracingError(f"{name}={os.environ[name]!r}: spans are sent as http/protobuf only")


def _require_packages() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise ValueError("tracing needs packages of OpenTelemetry: pip install 'cdlm-serve[tracing]'") from None
