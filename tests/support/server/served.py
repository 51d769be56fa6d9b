"""A real server with the bundled student, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.places import ROOT

START_LIMIT_S = 120.0
VERIFY = False  # No certificates over HTTP: to read them takes a client longer than its requests.
# Room for sixteen rows of cdlm-nano. By default it has 400 MB for 64 of them, and to write those takes most of a start.
POOL = "100MB"


class Server:
    """A running server process and a client to it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.client = httpx.Client(base_url=url, timeout=120, verify=VERIFY)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready after {START_LIMIT_S:g} s:\n{self.log.read_text()}")

    def post(self, path: str, body: object) -> httpx.Response:
        return self.client.post(path, json=body)

    def complete(self, **fields: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", {"prompt": "hello", "max_tokens": 8} | fields)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Payloads of an event stream up to its end mark."""
        response = self.post(path, {"stream": True} | body)
        assert response.status_code == 200, response.text
        lines = [part.removeprefix("data: ") for part in response.text.split("\n\n") if part[:5] == "data:"]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of all samples of ``name`` with these labels."""
        total, found = 0.0, False
        for row in self.client.get("/metrics").text.splitlines():
            wanted = row.startswith((name + "{", name + " "))
            if wanted and all(f'{key}="{value}"' in row for key, value in labels.items()):
                total, found = total + float(row.rsplit(" ", 1)[1]), True
        assert found, name
        return total

    def wait_for(self, condition: Any, limit_s: float = 10.0) -> None:
        """Waits until ``condition()`` is true."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def wait_idle(self) -> None:
        """Waits until nothing runs and all KV cache pages are free or cached."""
        self.wait_for(
            lambda: (
                self.metric("cdlm_kv_pages", state="active") == 0
                and self.metric("cdlm_num_requests_running") == 0
                and self.metric("cdlm_num_requests_waiting") == 0
            )
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(log: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server with these flags and environment variables; killed at the end if it still runs."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CDLM_")}
    environment["CDLM_MODEL"] = "cdlm-nano"  # The default would be fetched.
    environment["CDLM_KV_CACHE_MEMORY"] = POOL
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "cdlm", "serve", "--port", str(port), "--threads", "1", *flags],
            cwd=ROOT,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait_ready()
        yield server
    finally:
        server.client.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
