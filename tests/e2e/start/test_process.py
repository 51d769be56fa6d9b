"""Draining, signals and refusing to start."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.command import cdlm
from tests.support.places import ROOT
from tests.support.server.served import VERIFY, Server, free_port, running_server

LONG = {"prompt": "hello", "max_tokens": 1900, "ignore_eos": True, "stream": True}
SOME = LONG | {"max_tokens": 700}


def start_stream(server: Server, body: dict[str, object] = LONG) -> tuple[threading.Thread, list[str]]:
    """Reads a long stream in a thread; returns once its first event is there."""
    lines: list[str] = []

    def read() -> None:
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.Client(base_url=server.url, timeout=120, verify=VERIFY) as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines.extend(line for line in response.iter_lines() if line)

    thread = threading.Thread(target=read)
    thread.start()
    server.wait_for(lambda: bool(lines))
    return thread, lines


def test_sigterm_drains(tmp_path: Path) -> None:
    """Streams end as they would, and requests are served until balancers have seen that readiness is gone."""
    # The pause is half a second: a machine that is busy just then gets another chance.
    for attempt in range(3):
        early = drained(tmp_path / f"log{attempt}")
        if early is not None:
            assert early.status_code == 200, early.text
            return
    pytest.skip("this machine is too slow to ask within the pause")


def drained(log: Path) -> httpx.Response | None:
    """The answer to a request right after readiness is gone; ``None`` if it was asked too late to tell."""
    with running_server(log, "--drain-timeout-s", "90") as server:
        thread, lines = start_stream(server, SOME)
        signaled = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while server.client.get("/readyz").status_code == 200:
            assert time.monotonic() < signaled + 5
        late = time.monotonic() - signaled > 0.3
        try:
            early = server.post("/v1/completions", {"prompt": "hello", "max_tokens": 1})
        except httpx.TransportError:
            if not late:
                raise
        assert server.process.wait(100) == 0, server.log.read_text()
        thread.join(10)
        assert lines[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in lines[-2]
        return None if late else early


@pytest.mark.spawns
def test_a_signal_while_the_model_loads(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as sink:
        command = [sys.executable, "-m", "cdlm", "serve", "--port", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
    try:
        deadline, status = time.monotonic() + 120, 0
        while status == 0:
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                status = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=120, verify=VERIFY).status_code
            time.sleep(0.05)
        assert status == 503, "it was ready at once, so that this test says nothing"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert "is ready" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_drain_limit_ends_streams_with_an_error(tmp_path: Path) -> None:
    with running_server(tmp_path / "log", "--drain-timeout-s", "0.1") as server:
        thread, lines = start_stream(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0, server.log.read_text()
        thread.join(10)
        assert lines[-1] == "data: [DONE]"
        assert "shutting down" in lines[-2]


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    with running_server(tmp_path / "log", "--drain-timeout-s", "90") as server:
        thread, _ = start_stream(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) != 0
        thread.join(10)


def refuse(*flags: str, **variables: str) -> str:
    """What a server that must not start writes to stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CDLM_")}
    done = subprocess.run(
        [sys.executable, "-m", "cdlm", "serve", *flags],
        cwd=ROOT,
        env=environment | {"CDLM_MODEL": "cdlm-nano"} | variables,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_what_refuses_to_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in refuse("--port", port)
    assert str(tmp_path) in refuse("--port", "0", "--model", str(tmp_path))
    assert "CDLM_PORTS" in refuse(CDLM_PORTS="1")
    # The rest is found out before anything is started.
    for flags in (("--port", "abc"), ("--bogus",)):
        result = cdlm("serve", *flags)
        assert result.exit_code == 2
        assert flags[0] in result.stderr
