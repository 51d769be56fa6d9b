"""``/v1/decisions`` over the fake engine: what is refused, and which field is named; failures, limits and quotas."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cdlm.scheduler.errors import EngineDeadError, EngineError
from tests.support.server.bench import Bench, widen
from tests.unit.server.routes.decisions.test_decisions import CHOICE, PATH, PREDICATE, SCORE

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "hi"}
DEEP: Any = {}
for _ in range(40):
    DEEP = {"a": DEEP}


def image(where: str) -> dict[str, Any]:
    return {where: [{"type": "input_image", "image_url": "data:,"}]}


def part(data: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "input_json", "data": data}]}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [USER, {"role": "tool", "content": "a"}]}, "input[1].role"),
        ({"input": [USER | {"content": 5}]}, "input[0].content"),
        ({"input": [USER | {"content": [{"type": "input_text", "text": 5}]}]}, "input[0].content[0].text"),
        ({"input": [USER | image("content")]}, "input[0].content[0].type"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        ({"input": part(5)}, "input[0].content[0].data"),
        ({"input": part([{}, 5])}, "input[0].content[0].data[1]"),
        ({"input": part(DEEP)}, "input[0].content[0].data"),
        ({"input": part({"a": [0] * 10_000})}, "input[0].content[0].data"),
        ({"input": part({"a": "ä" * 131_072})}, "input[0].content[0].data"),
        ({"input": [{"type": "function_call_output", "call_id": "7", "output": ""}]}, "input[0].call_id"),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": "7", "name": "f", "arguments": ""},
                    {"type": "custom_tool_call_output", "call_id": "7", "output": ""},
                ]
            },
            "input[1].call_id",
        ),
        ({"questions": []}, "questions"),
        ({"questions": None}, "questions"),
        ({"questions": [PREDICATE] * 201}, "questions"),
        ({"questions": [{}]}, "questions[0].instructions"),
        ({"questions": [PREDICATE, {"instructions": "a"}]}, "questions[1].type"),
        ({"questions": [PREDICATE | {"type": "essay"}]}, "questions[0].type"),
        ({"questions": [PREDICATE | {"type": 5}]}, "questions[0].type"),
        ({"questions": [PREDICATE | {"name": 5}]}, "questions[0].name"),
        ({"questions": [PREDICATE | {"instructions": " "}]}, "questions[0].instructions"),
        ({"questions": [PREDICATE | {"instructions": []}]}, "questions[0].instructions"),
        ({"questions": [PREDICATE | image("instructions")]}, "questions[0].instructions[0].type"),
        ({"questions": [PREDICATE | {"choices": [{"value": "a"}]}]}, "questions[0].choices"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}]}]}, "questions[0].choices"),
        ({"questions": [CHOICE | {"choices": [{"value": str(n)} for n in range(256)]}]}, "questions[0].choices"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": 5}]}]}, "questions[0].choices[1].value"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": ""}]}]}, "questions[0].choices[1].value"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": "a"}]}]}, "questions[0].choices[1].value"),
        ({"questions": [CHOICE | {"choices": [{"value": True}, {"value": True}]}]}, "questions[0].choices[1].value"),
        (
            {"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": "b", "description": 5}]}]},
            "questions[0].choices[1].description",
        ),
        ({"questions": [SCORE | {"levels": [{"label": "a"}]}]}, "questions[0].levels"),
        ({"questions": [SCORE | {"levels": [{"label": str(n)} for n in range(11)]}]}, "questions[0].levels"),
        ({"questions": [SCORE | {"levels": [{"label": "a"}, {"label": "a"}]}]}, "questions[0].levels[1].label"),
        ({"questions": [SCORE | {"levels": [{"label": "a"}, {}]}]}, "questions[0].levels[1].label"),
        ({"priority": "high"}, "priority"),
        ({"cache_salt": 5}, "cache_salt"),
        ({"temperature": 0.5}, "temperature"),
        ({"stream": True}, "stream"),
        ({"flavor": 1}, "flavor"),
        ({"input": "word " * 5000}, "input"),
        ({"questions": [CHOICE | {"choices": [{"value": "a"}, {"value": "b " * 5000}]}]}, "input"),
        ({"questions": [PREDICATE | {"instructions": "word " * 5000}]}, "input"),
    ],
)
async def test_a_wrong_field_is_named(bench: Bench, fields: dict[str, Any], param: str) -> None:
    widen(bench)
    response = await bench.post(PATH, {"input": "hi", "questions": [PREDICATE]} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param, error
    assert error["message"]
    assert bench.engine.scored == []


async def test_another_model_is_not_found(bench: Bench) -> None:
    response = await bench.post(PATH, {"model": "nope", "input": "hi", "questions": [PREDICATE]})
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize(("error", "status"), [(EngineDeadError("gone"), 503), (EngineError("wrong"), 500)])
async def test_an_engine_that_fails(bench: Bench, error: Exception, status: int) -> None:
    widen(bench)
    for after in (0, 1, 4):
        bench.engine.scored.clear()
        bench.engine.fail_after = (after, error)
        response = await bench.post(PATH, {"input": "hi", "questions": [PREDICATE, CHOICE]})
        assert response.status_code == status, response.text
        assert bench.services.gate.in_flight == 0
    text = (await bench.client.get("/metrics")).text
    assert 'cdlm_requests_finished_total{model_name="tiny",reason="error"} 6.0' in text


async def test_a_request_that_takes_too_long(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(request_timeout_s=0.05)
    widen(bench)
    bench.engine.hold_after = 1
    response = await bench.post(PATH, {"input": "hi", "questions": [PREDICATE]})
    assert response.status_code == 504
    assert bench.services.gate.in_flight == 0


async def test_a_server_that_stops_ends_requests(bench: Bench) -> None:
    widen(bench)
    bench.engine.hold_after = 1
    asked = asyncio.create_task(bench.post(PATH, {"input": "hi", "questions": [PREDICATE]}))
    await bench.engine.held.wait()
    assert not await bench.services.gate.drain(0.01)
    assert (await asked).status_code == 503
    assert (await bench.post(PATH, {"input": "hi", "questions": [PREDICATE]})).status_code == 503


async def test_a_full_queue_and_quotas(make_bench: Callable[..., Bench], tmp_path: Any) -> None:
    bench = make_bench(max_num_seqs=1, max_waiting_requests=0)
    widen(bench)
    with bench.services.gate.admit(1):
        assert (await bench.post(PATH, {"input": "hi", "questions": [PREDICATE]})).status_code == 429
    assert (await bench.post(PATH, {"input": "hi", "questions": [PREDICATE] * 9})).status_code == 200
