"""The JSON line of every POST."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.support.server.bench import ANSWER, Bench

pytestmark = pytest.mark.anyio

Lines = Callable[[], list[dict[str, Any]]]
PROMPT = "a secret nobody may read"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    with caplog.at_level(logging.INFO, "cdlm.server.observe.request_log"):
        yield lambda: [
            json.loads(r.getMessage()) for r in caplog.records if r.name == "cdlm.server.observe.request_log"
        ]
    for record in caplog.records:
        assert PROMPT not in record.getMessage()
        assert ANSWER[:5] not in record.getMessage()


async def test_an_answer_is_one_line(bench: Bench, lines: Lines) -> None:
    await bench.client.post(
        "/v1/completions", json={"prompt": PROMPT, "max_tokens": 40}, headers={"x-request-id": "mine"}
    )
    (line,) = lines()
    assert (line["request_id"], line["path"]) == ("mine", "/v1/completions")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert (line["status"], line["outcome"], line["finish_reasons"]) == (200, "finished", ["stop"])
    assert (line["blocks"], line["forward_passes"], line["denoise_steps"]) == (2, 6, 4)
    assert 0 < line["ttft_ms"] <= line["e2e_ms"]
    assert line["queue_ms"] == 0
    assert "trace_id" not in line


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": -1}, 400),
        ("/v1/chat/completions", {"messages": [{"role": PROMPT, "content": PROMPT}]}, 400),
        ("/v1/completions", {"prompt": PROMPT, "model": "other"}, 404),
        ("/v1/embeddings", {"input": PROMPT}, 404),
    ],
)
async def test_what_is_refused_is_a_line_too(
    bench: Bench, lines: Lines, path: str, body: dict[str, Any], status: int
) -> None:
    assert (await bench.post(path, body)).status_code == status
    (line,) = lines()
    assert (line["path"], line["status"], line["outcome"]) == (path, status, "error")
    assert line["request_id"]
    assert line["e2e_ms"] > 0
    assert "prompt_tokens" not in line


async def test_no_room_no_key_and_too_many_headers_are_lines(make_bench: Callable[..., Bench], lines: Lines) -> None:
    bench = make_bench(max_num_seqs=1, max_waiting_requests=0, api_key=["s3cret"])
    bench.engine.hold_after = 0
    async with bench.client:
        await bench.post("/v1/completions", {"prompt": PROMPT})
        bench.client.headers["authorization"] = "Bearer s3cret"
        held = asyncio.create_task(bench.post("/v1/completions", {"prompt": PROMPT}))
        await bench.engine.held.wait()
        await bench.post("/v1/completions", {"prompt": PROMPT})
        await bench.client.post("/v1/completions", headers={"x-big": "a" * 70_000})
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
    assert [(line["status"], line["outcome"]) for line in lines()] == [
        (401, "error"),
        (429, "error"),
        (431, "error"),
        (499, "cancelled"),
    ]


async def test_a_stream_that_fails_has_the_status_of_its_failure(bench: Bench, lines: Lines) -> None:
    bench.engine.fail_after = (1, RuntimeError("broken"))
    response = await bench.post("/v1/completions", {"prompt": PROMPT, "stream": True})
    assert response.status_code == 200
    (line,) = lines()
    assert (line["status"], line["outcome"], line["blocks"], line["stream"]) == (500, "error", 1, True)


async def test_probes_scrapes_and_pages_leave_no_line(bench: Bench, lines: Lines) -> None:
    for path in ("/readyz", "/metrics", "/", "/v1/models", "/nope"):
        await bench.client.get(path)
    assert lines() == []


async def test_a_hostile_path_stays_one_short_line(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "cdlm.server.observe.request_log"):
        await bench.client.post("/x%0d%0a%1b[31m" + "y" * 5000)
    message = caplog.records[-1].getMessage()
    assert message.isprintable()
    assert len(message) < 1000
    assert json.loads(message)["path"].startswith("/x\r\n\x1b[31my")
