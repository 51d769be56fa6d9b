"""``/v1/responses`` over the fake engine where something fails or is full, or the client leaves."""

import asyncio
from collections.abc import Callable

import pytest

from cdlm.scheduler.errors import EngineDeadError
from tests.support.server.bench import Bench
from tests.unit.server.routes.responses.test_responses import OPENING, PATH, named_events, text_of
from tests.unit.server.routes.test_api import counter

pytestmark = pytest.mark.anyio


async def test_unknown_models(bench: Bench) -> None:
    response = await bench.post(PATH, {"input": "hi", "model": "nope"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_error_before_the_first_block_keeps_its_status(bench: Bench) -> None:
    bench.engine.fail_after = (0, EngineDeadError("gone"))
    for stream in (False, True):
        response = await bench.post(PATH, {"input": "hi", "stream": stream})
        assert response.status_code == 503
        assert response.json()["error"]["type"] == "server_error"


async def test_a_later_error_ends_the_stream_as_failed(bench: Bench) -> None:
    bench.engine.fail_after = (1, EngineDeadError("gone"))
    events = await named_events(bench)
    assert [event["type"] for event in events] == [
        *OPENING, "response.output_text.delta", "error", "response.failed",
    ]  # fmt: skip
    error, failed = events[-2:]
    assert "engine stopped" in error["message"]
    assert (error["code"], error["param"]) == ("server_error", None)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": error["message"]}
    assert text_of(failed["response"]) == events[4]["delta"]
    assert failed["response"]["output"][0]["status"] == "incomplete"
    response = await bench.post(PATH, {"input": "hi"})
    assert response.status_code == 503


async def test_a_client_that_leaves_aborts_the_request(bench: Bench) -> None:
    bench.engine.hold_after = 1
    for stream in (False, True):
        bench.engine.held.clear()
        task = asyncio.create_task(bench.post(PATH, {"input": "hi", "stream": stream}))
        await bench.engine.held.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert bench.services.gate.in_flight == 0
    assert len(bench.engine.aborted) == 2
    assert counter(bench, 'cdlm_requests_cancelled_total{model_name="tiny",stage="running"}') == 2


async def test_a_full_queue_answers_429(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_num_seqs=1, max_waiting_requests=0)
    bench.engine.hold_after = 1
    async with bench.client:
        task = asyncio.create_task(bench.post(PATH, {"input": "hi"}))
        await bench.engine.held.wait()
        response = await bench.post(PATH, {"input": "hi", "stream": True})
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
