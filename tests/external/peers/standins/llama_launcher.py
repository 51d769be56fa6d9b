"""A pytest plugin for llama.cpp's own suite: its launcher starts this server.

Runs in the environment of the suite, not in this project's. ``PEER_SERVER`` is the command line that serves.
Servers with equal flags are one process, since the suite starts one for every test.
"""

import os
import shlex
import socket
import subprocess
import time
from typing import Any

import pytest
import requests
from requests.structures import CaseInsensitiveDict

_running: dict[tuple[str, ...], tuple[int, subprocess.Popen[bytes]]] = {}


def _flags(server: Any) -> tuple[str, ...]:
    """Those of this server that mean what the test has set."""
    flags = ["--served-model-name", server.model_alias or "tinyllama-2"]
    if server.api_key:
        flags += ["--api-key", server.api_key]
    if server.no_ui:
        flags += ["--no-playground"]
    if server.n_ctx:
        flags += ["--max-model-len", str(min(2048, server.n_ctx // (server.n_slots or 1)))]
    flags += ["--cors-origins", server.cors_origins or "*"]
    return tuple(flags)


def _start(server: Any, timeout_seconds: int = 120) -> None:
    flags = _flags(server)
    if flags not in _running:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [*shlex.split(os.environ["PEER_SERVER"]), "--host", "127.0.0.1", "--port", str(port), *flags]
        _running[flags] = port, subprocess.Popen(command)
    server.server_host, (server.server_port, process) = "127.0.0.1", _running[flags]
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{server.server_port}/readyz", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import utils  # Of the suite, which is on the path by now.

    request = utils.ServerProcess.make_request

    def any_case(server: Any, *arguments: Any, **options: Any) -> Any:
        """Names of headers have no case, which the suite's plain dictionary has."""
        response = request(server, *arguments, **options)
        response.headers = CaseInsensitiveDict(response.headers)
        return response

    utils.ServerProcess.make_request = any_case
    utils.ServerProcess.start = _start
    utils.ServerProcess.stop = lambda _: None
    utils.ServerPreset.load_all = staticmethod(lambda: None)


def pytest_sessionfinish() -> None:
    for _, process in _running.values():
        process.terminate()
    for _, process in _running.values():
        process.wait(30)
