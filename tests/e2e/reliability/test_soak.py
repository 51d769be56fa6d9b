"""Everything at once: all endpoints, clients that leave, bad input, an engine that dies; nothing piles up."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.reliability.load import check_well, engine_of, resident_mb
from tests.e2e.reliability.report import Report
from tests.support.server.served import Server, running_server

Body = tuple[str, dict[str, Any]]

WORKERS = 8
LEAVING, BAD = 0.2, 0.1
SHORT_S = 5.0
RESIDENT_GROWTH = 1.25

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "integer"}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}
QUESTION = "Tom has {} apples and buys {} more. How many apples has he?"
BAD_BODIES: list[tuple[str, Any]] = [
    ("/v1/completions", {"prompt": "", "max_tokens": 4}),
    ("/v1/completions", {"prompt": "hi", "n": 10**9}),
    ("/v1/completions", {"prompt": "hi", "guided_json": {"type": "object"}}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "temperature": 7}),
    ("/v1/responses", {"input": 5}),
    ("/tokenize", {}),
]


def bodies(questions: int) -> list[Body]:
    """Requests whose answer is always the same."""
    made: list[Body] = []
    for number in range(questions):
        question = QUESTION.format(10 + number, 20 + 3 * number)
        chat = [{"role": "user", "content": question}]
        made += [
            ("/v1/completions", {"prompt": question + "\n", "max_tokens": 64}),
            ("/v1/completions", {"prompt": question, "max_tokens": 40, "temperature": 0.8, "seed": number, "n": 2}),
            ("/v1/completions", {"prompt": question, "max_tokens": 1, "echo": True, "logprobs": 1}),
            ("/v1/completions", {"prompt": [5 + number] * (30 * number + 1), "max_tokens": 33, "logprobs": 2}),
            ("/v1/chat/completions", {"messages": chat, "max_tokens": 96}),
            ("/v1/chat/completions", {"messages": chat, "max_tokens": 60, "response_format": SCHEMA}),
            ("/v1/responses", {"input": question, "max_output_tokens": 48}),
            ("/tokenize", {"prompt": question}),
        ]
    return made


def essence(path: str, content: dict[str, Any]) -> object:
    """What must be the same each time: no ids, no times; log-probabilities to three places."""
    if path == "/v1/responses":
        return content["output"][0]["content"][0]["text"]
    if path == "/tokenize":
        return content["tokens"]
    return [
        (choice.get("text", choice.get("message", {}).get("content")), choice["finish_reason"], scores(choice))
        for choice in content["choices"]
    ]


def scores(choice: dict[str, Any]) -> list[float | None]:
    values = (choice.get("logprobs") or {}).get("token_logprobs") or []
    return [None if value is None else round(value, 3) for value in values]


class Worker:
    """One client that asks, leaves, or asks nonsense, until told to stop."""

    def __init__(
        self, url: str, seed: int, asked: list[Body], expected: list[object], until: Callable[[], bool]
    ) -> None:
        self._url, self._rng, self._until = url, random.Random(seed), until
        self._asked, self._expected = asked, expected
        self.counts: Counter[str] = Counter()
        self.wrong: list[object] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asked = self._asked
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while self._until():
                draw, number = self._rng.random(), self._rng.randrange(len(asked))
                try:
                    if draw < BAD:
                        self._nonsense(client)
                    elif draw < BAD + LEAVING:
                        self._leave(client, *asked[number])
                    else:
                        self._ask(client, *asked[number], self._expected[number])
                except httpx.TransportError as error:
                    self.wrong.append(repr(error))

    def _nonsense(self, client: httpx.Client) -> None:
        path, body = self._rng.choice(BAD_BODIES)
        response = client.post(path, json=body)
        # While an engine starts, that it is not there is said before what is wrong.
        self._count("bad", response.status_code in (400, 503), response)

    def _leave(self, client: httpx.Client, path: str, body: dict[str, Any]) -> None:
        if path == "/tokenize":
            return
        with client.stream("POST", path, json={**body, "stream": True}) as response:
            next(response.iter_raw(), None)
        self.counts["left"] += 1

    def _ask(self, client: httpx.Client, path: str, body: dict[str, Any], expected: object) -> None:
        response = client.post(path, json=body)
        if response.status_code in (500, 503):  # An engine that died says so.
            self._count("told", "error" in response.json(), response)
            time.sleep(0.2)
            return
        right = response.status_code == 200 and close(essence(path, response.json()), expected)
        self._count("answered", right, response)

    def _count(self, kind: str, right: bool, response: httpx.Response) -> None:
        self.counts[kind] += 1
        if not right:
            self.wrong.append((kind, response.status_code, response.text[-300:]))


def close(found: object, expected: object) -> bool:
    """Equal, but for the last place of rounded log-probabilities."""
    if isinstance(expected, float) and isinstance(found, float):
        return abs(found - expected) < 2e-3
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == expected


def footprint(server: Server) -> dict[str, float]:
    pid = server.process.pid
    return {
        "resident_mb": resident_mb(pid),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "series": sum(not line.startswith("#") for line in server.client.get("/metrics").text.splitlines()),
    }


def soak(server: Server, seconds: float, report: Report, questions: int = 6) -> None:
    asked = bodies(questions)
    expected = [essence(path, server.post(path, body).json()) for path, body in asked]
    warm_until = time.monotonic() + min(5.0, seconds / 3)
    run(server, asked, expected, lambda: time.monotonic() < warm_until, 1)
    server.wait_idle()
    before = footprint(server)
    ends = time.monotonic() + seconds
    killer = threading.Timer(seconds / 2, lambda: os.kill(engine_of(server), signal.SIGKILL))
    killer.start()
    workers = run(server, asked, expected, lambda: time.monotonic() < ends, 2)
    killer.join()
    check_well(server)
    server.wait_for(lambda: footprint(server)["files"] <= before["files"] + 2, 30)
    after = footprint(server)
    counts: Counter[str] = sum((worker.counts for worker in workers), Counter())
    wrong = [each for worker in workers for each in worker.wrong]
    assert not wrong, wrong[:3]
    assert all(counts[kind] for kind in ("answered", "left", "bad", "told")), counts
    assert server.metric("cdlm_engine_restarts_total") == 1
    assert after["series"] == before["series"]
    assert after["threads"] <= before["threads"] + 2
    assert after["resident_mb"] <= before["resident_mb"] * RESIDENT_GROWTH
    report.row(f"{seconds:g} s of everything, one engine kill", tried=counts.total(),
               survived=counts.total() - len(wrong),
               **{name: counts[name] for name in ("answered", "left", "bad", "told")},
               resident_mb=[round(each["resident_mb"]) for each in (before, after)])  # fmt: skip


def run(
    server: Server, asked: list[Body], expected: list[object], until: Callable[[], bool], seed: int
) -> list[Worker]:
    workers = [Worker(server.url, 100 * seed + number, asked, expected, until) for number in range(WORKERS)]
    for worker in workers:
        worker.thread.join()
    return workers


@pytest.mark.whole
def test_a_short_while(tmp_path: Path, report: Report) -> None:
    with running_server(tmp_path / "log", "--max-num-seqs", "8") as server:
        soak(server, SHORT_S, report, questions=3)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_for_long(tmp_path: Path, report: Report) -> None:
    with running_server(tmp_path / "log", "--max-num-seqs", "8") as server:
        soak(server, 60 * float(os.environ.get("SOAK_MINUTES", "30")), report)
        assert json.loads(server.client.get("/v1/models").text)["data"]
