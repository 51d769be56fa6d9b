"""Requests in threads of their own, and what became of each."""

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.forks import zygote
from tests.support.server.served import VERIFY, Server

DONE = "data: [DONE]"


@dataclass
class Answer:
    """One request: its status, the lines of its stream or its body, and when what came (monotonic seconds)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0

    @property
    def begun(self) -> bool:
        """Whether a first block has arrived."""
        return bool(self.lines)

    @property
    def failed(self) -> bool:
        """Whether its stream ended with an error event, and its end mark."""
        return len(self.lines) > 1 and self.lines[-1] == DONE and '"server_error"' in self.lines[-2]

    @property
    def refused(self) -> bool:
        """Whether it was answered with an error status, and a body that says why."""
        return self.status >= 400 and '"error"' in "".join(self.lines)

    @property
    def complete(self) -> bool:
        """Whether its stream ended with a finish reason and its end mark."""
        return len(self.lines) > 1 and self.lines[-1] == DONE and '"finish_reason":"' in self.lines[-2]


class Streams:
    """Streams that are read side by side, each in a thread."""

    def __init__(self, server: Server, bodies: list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        self.answers = [Answer() for _ in bodies]
        # One client for all: each would spend more time on its own set-up than the server on a request.
        # Connections are closed when their answer is there: no other stream waits for their descriptors.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.Client(base_url=server.url, timeout=240, headers=headers, limits=limits, verify=VERIFY)
        self._threads = [
            threading.Thread(target=self._read, args=(body, answer))
            for body, answer in zip(bodies, self.answers, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, body: dict[str, Any], answer: Answer) -> None:
        answer.started = time.monotonic()
        with (
            contextlib.suppress(httpx.TransportError),
            self._client.stream("POST", "/v1/completions", json={"stream": True} | body) as response,
        ):
            answer.status, answer.headers = response.status_code, dict(response.headers)
            for line in response.iter_lines():
                if line:
                    answer.lines.append(line)
        answer.ended = time.monotonic()

    def join(self, limit_s: float = 240.0) -> list[Answer]:
        """Waits for all; returns the answers."""
        deadline = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a request did not end"
        self._client.close()
        return self.answers


def engine_of(server: Server) -> int:
    """Process id of the engine."""
    (child,) = children(server.process.pid)
    return child


def children(pid: int) -> list[int]:
    """Process ids of a process's children, without the zygote that a forked server has for its engines."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(word) for word in found if Path(f"/proc/{word}/comm").read_text().strip() != zygote.NAME]


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no resident memory")


def check_well(server: Server, expected: object = None) -> None:
    """The three checks after every fault: ready, a normal request works, pages are back."""
    server.wait_ready()
    choices = server.complete()["choices"]
    assert expected is None or choices == expected
    server.wait_idle()
