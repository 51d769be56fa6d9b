"""Completions and chats over the fake engine where something fails, is full, slow or about to end."""

import asyncio
from collections.abc import Callable

import pytest

from cdlm.scheduler.errors import EngineDeadError
from tests.support.server.bench import Bench, parse_events
from tests.unit.server.routes.test_api import counter

pytestmark = pytest.mark.anyio


async def test_an_engine_error_before_the_first_block_keeps_its_status(bench: Bench) -> None:
    bench.engine.fail_after = (0, EngineDeadError("gone"))
    for stream in (False, True):
        response = await bench.post("/v1/completions", {"prompt": "hi", "stream": stream})
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "server_error"
        assert int(response.headers["retry-after"]) <= 120
    bench.engine.fail_after = None
    await bench.complete()


async def test_a_later_engine_error_is_an_event(bench: Bench) -> None:
    bench.engine.fail_after = (1, EngineDeadError("gone"))
    events = await bench.events("/v1/completions", prompt="hi", max_tokens=40)
    assert events[0]["choices"][0]["text"]
    assert events[-1]["error"]["type"] == "server_error"
    assert counter(bench, 'cdlm_requests_finished_total{model_name="tiny",reason="error"}') == 1


async def test_not_ready(bench: Bench) -> None:
    ready, bench.engine.ready = bench.engine.ready, None
    response = await bench.post("/v1/completions", {"prompt": "hi", "stream": True})
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert (await bench.client.get("/readyz")).status_code == 503
    assert (await bench.client.get("/livez")).status_code == 200
    assert (await bench.client.get("/v1/models")).status_code == 200
    bench.engine.ready = ready
    assert (await bench.client.get("/readyz")).status_code == 200


async def test_a_full_queue_answers_429(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_num_seqs=1, max_waiting_requests=1)
    bench.engine.hold_after = 1
    async with bench.client:
        tasks = [asyncio.create_task(bench.post("/v1/completions", {"prompt": "hi"})) for _ in range(2)]
        await bench.engine.held.wait()
        response = await bench.post("/v1/completions", {"prompt": "hi", "stream": True})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["type"] == "rate_limit_error"
        response = await bench.post("/v1/completions", {"prompt": "hi", "n": 3})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert bench.services.gate.in_flight == 0
        assert len(bench.engine.aborted) == 2
        assert counter(bench, 'cdlm_requests_rejected_total{model_name="tiny",reason="queue_full"}') == 1
        assert counter(bench, 'cdlm_requests_cancelled_total{model_name="tiny",stage="running"}') == 2


async def test_a_deadline_ends_with_504(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(request_timeout_s=0.05)
    async with bench.client:
        bench.engine.hold_after = 0
        response = await bench.post("/v1/completions", {"prompt": "hi", "stream": True})
        assert response.status_code == 504
        bench.engine.hold_after = 1
        events = await bench.events("/v1/completions", prompt="hi")
        assert "error" in events[-1]
        assert bench.services.gate.in_flight == 0
        assert len(bench.engine.aborted) == 2


async def test_draining_finishes_or_ends_streams(bench: Bench) -> None:
    bench.engine.hold_after = 1
    stream = asyncio.create_task(bench.post("/v1/completions", {"prompt": "hi", "stream": True}))
    await bench.engine.held.wait()
    draining = asyncio.create_task(bench.services.gate.drain(0.05))
    await asyncio.sleep(0)
    assert (await bench.client.get("/readyz")).status_code == 503
    assert (await bench.post("/v1/completions", {"prompt": "hi"})).status_code == 503
    assert await draining is False
    assert "shutting down" in parse_events((await stream).text)[-1]["error"]["message"]


async def test_a_server_that_leaves_serves_until_it_drains(bench: Bench) -> None:
    bench.services.leaving = True
    response = await bench.client.get("/readyz")
    assert (response.status_code, response.json()["error"]["message"]) == (503, "The server is shutting down")
    assert (await bench.client.get("/livez")).status_code == 200
    assert (await bench.post("/v1/completions", {"prompt": "hi"})).status_code == 200


async def test_a_hang_fails_livez(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(engine_hang_timeout_s=5)
    async with bench.client:
        for quiet, status in ((4.9, 200), (5.1, 503), (0, 200)):
            bench.engine.quiet_s = quiet
            assert (await bench.client.get("/livez")).status_code == status
