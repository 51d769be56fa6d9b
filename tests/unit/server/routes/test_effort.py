"""Reasoning effort is a threshold relative to the checkpoint's own, the same on every route."""

from typing import Any

import msgspec
import pytest

from cdlm.server.openai.protocol.effort import Effort, effort_threshold
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("own", [0.3, 0.5, 0.9, 0.995, 1.0])
def test_more_effort_never_lowers_the_threshold(own: float) -> None:
    order: list[Effort] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    found = [effort_threshold(effort, own) for effort in order]
    assert found == sorted(found)
    assert all(0 < threshold <= 1 for threshold in found)
    assert effort_threshold("medium", own) == own
    assert found[4:] == [1.0] * 3


def test_the_documented_numbers() -> None:
    found = [round(effort_threshold(effort, 0.995), 6) for effort in ("none", "minimal", "low")]
    assert found == [0.92, 0.96, 0.98]
    assert effort_threshold("none", 0.9) == 0.5


@pytest.mark.parametrize(("effort", "threshold"), [("low", 0.6), ("medium", 0.9), ("high", 1.0)])
async def test_effort_reaches_the_engine(bench: Bench, effort: str, threshold: float) -> None:
    assert bench.engine.ready is not None
    bench.engine.ready = msgspec.structs.replace(bench.engine.ready, confidence_threshold=0.9)
    for path, body in (
        ("/v1/chat/completions", CHAT | {"reasoning_effort": effort}),
        ("/v1/completions", {"prompt": "hi", "reasoning_effort": effort, "decoding": "threshold"}),
        ("/v1/responses", {"input": "hi", "reasoning": {"effort": effort}}),
    ):
        response = await bench.post(path, body)
        assert response.status_code == 200, response.text
        assert bench.engine.requests[-1].params.confidence_threshold == pytest.approx(threshold)
    assert response.json()["reasoning"] == {"effort": effort, "summary": None}


@pytest.mark.parametrize(
    "fields", [{"confidence_threshold": 0.9}, {"decoding": "factor"}, {"decoding": "entropy_bound"}]
)
async def test_two_rules_at_once_are_refused(bench: Bench, fields: dict[str, Any]) -> None:
    response = await bench.post("/v1/chat/completions", CHAT | {"reasoning_effort": "low"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "reasoning_effort")
    response = await bench.post("/v1/chat/completions", CHAT | {"reasoning_effort": "most"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "reasoning_effort")
