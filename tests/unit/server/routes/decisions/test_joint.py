"""``joint`` decisions: how the canvas is laid out, what is asked of the engine, what is refused."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cdlm.scheduler.messages import Slot
from cdlm.server.openai.decisions.canvas import Canvas, joined, labels
from tests.support.server.bench import Bench, widen

pytestmark = pytest.mark.anyio

QUESTIONS: list[dict[str, Any]] = [
    {"type": "predicate", "name": "a", "instructions": "hello"},
    {"type": "choice", "instructions": "there", "choices": [{"value": "x y z"}, {"value": "x"}, {"value": True}]},
    {"type": "score", "instructions": "world", "levels": [{"label": "low"}, {"label": "high"}]},
]


def test_the_canvas_has_a_slot_for_each_question() -> None:
    canvas = Canvas.of(10, [[1, 2], [3, 4]], [[[20], [21]], [[30, 31, 32], [30], [33, 31]]], [9])
    assert canvas.ids == [1, 2, 20, 3, 4, 30, 31, 32, 9]
    # A shorter text is followed by what stands behind the slot.
    assert canvas.slots == [Slot(12, [20, 21]), Slot(15, [30, 33]), Slot(16, [31, 9]), Slot(17, [32, 9])]
    assert canvas.reads == [[[0], [1]], [[2, 4, 6], [2, 5], [3, 4, 7]]]


def test_without_an_end_token_a_shorter_text_ends_where_it_ends() -> None:
    canvas = Canvas.of(1, [[1]], [[[5, 6], [5]]], [])
    assert (canvas.slots, canvas.reads) == ([Slot(2, [5]), Slot(3, [6])], [[[0, 1], [0]]])


def test_the_texts() -> None:
    assert labels(3) == ["1.", "\n2.", "\n3."]
    assert joined(["a", "b"]) == "1. a\n\n2. b\n\nAnswer each question on a line of its own, after its number."


async def test_one_request_answers_all(bench: Bench) -> None:
    widen(bench)
    response = await bench.post("/v1/decisions", {"input": "hi", "questions": QUESTIONS, "joint": True})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [each["type"] for each in answer["answers"]] == ["predicate", "choice", "score"]
    [request] = bench.engine.scored
    assert answer["usage"]["input_tokens"] == len(request.prompt_ids)
    positions = [slot.position for slot in request.slots]
    assert positions == sorted(positions)
    assert positions[0] > request.start
    for each in answer["answers"][1:]:
        assert sum(share["probability"] for share in each["probabilities"]) == pytest.approx(1)
    await bench.post("/v1/decisions", {"input": "hi", "questions": QUESTIONS, "joint": False})
    assert len(bench.engine.scored) == 1 + 7
    assert not any(request.slots for request in bench.engine.scored[1:])


async def test_models_without_masks_are_refused(bench: Bench) -> None:
    widen(bench)
    ready = bench.engine.ready
    assert ready is not None
    for change in ({"block_length": 1}, {"mask_token_id": ready.vocab_size}):
        bench.engine.ready = msgspec.structs.replace(ready, **change)
        response = await bench.post("/v1/decisions", {"input": "hi", "questions": QUESTIONS, "joint": True})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "joint")


async def test_what_does_not_fit(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(max_num_batched_tokens=512, max_prefill_tokens=64)
    body = {"input": "hi", "questions": QUESTIONS, "joint": True}
    long = [{"type": "choice", "instructions": "b", "choices": [{"value": "x " * 200}, {"value": "y"}]}]
    async with bench.client:
        widen(bench)
        for more, param in (({"questions": long}, "joint"), ({"joint": 1}, "joint")):
            response = await bench.post("/v1/decisions", body | more)
            assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
        bench.engine.ready = msgspec.structs.replace(bench.engine.ready, max_model_len=48)
        response = await bench.post("/v1/decisions", body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert bench.engine.scored == []
