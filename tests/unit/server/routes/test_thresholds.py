"""``--threshold-under-load``: which threshold a request has, and what says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cdlm.server.openai.answers.thresholds import threshold_under_load
from cdlm.server.settings import ServerSettings
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("waiting", "threshold"), [(0, 0.9), (4, 0.9), (5, 0.8), (6, 0.7), (8, 0.5), (9, 0.5), (1000, 0.5)]
)
def test_the_threshold_falls_linearly_between_two_depths(waiting: int, threshold: float) -> None:
    assert threshold_under_load(0.9, 0.5, waiting, 4, 8) == pytest.approx(threshold)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 50), st.integers(0, 20), st.integers(1, 20))
def test_it_never_rises_with_the_load(own: float, low: float, waiting: int, begin: int, width: int) -> None:
    here, later = (threshold_under_load(own, low, depth, begin, begin + width) for depth in (waiting, waiting + 1))
    assert min(low, own) - 1e-9 <= later <= here + 1e-9
    assert here <= own
    assert waiting > begin or here == own


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"load_begins_at": 3}, "need --threshold-under-load"),
        ({"load_full_at": 3}, "need --threshold-under-load"),
        ({"threshold_under_load": 0.5, "load_begins_at": 3, "load_full_at": 3}, "must be above --load-begins-at 3"),
        ({"threshold_under_load": 0.0}, "greater than 0"),
        ({"threshold_under_load": 1.5}, "less than or equal to 1"),
    ],
)
def test_flags_that_do_not_fit(tmp_path: Path, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServerSettings(model=str(tmp_path), **flags)


async def test_what_a_request_sets_stays(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(threshold_under_load=0.2, load_full_at=2, max_num_seqs=4)
    assert bench.engine.ready is not None
    own = bench.engine.ready.confidence_threshold
    bench.services.gate.in_flight = 5  # One waits: half of the way.
    async with bench.client:
        for path, body in (("/v1/completions", {"prompt": "hi"}), ("/v1/chat/completions", CHAT)):
            for more, used in (
                ({}, own + (0.2 - own) / 2),
                ({"confidence_threshold": 0.1}, 0.1),
                ({"confidence_threshold": 0.95}, 0.95),
                ({"reasoning_effort": "medium"}, own),
                ({"n": 2}, own + (0.2 - own) / 2),
            ):
                answer = (await bench.post(path, body | more)).json()
                assert answer["usage"]["confidence_threshold"] == pytest.approx(used)
                assert bench.engine.requests[-1].params.confidence_threshold == pytest.approx(used)
            for more in ({"decoding": "factor"}, {"decoding": "fixed_steps", "steps_per_block": 2}):
                answer = (await bench.post(path, body | more)).json()
                assert "confidence_threshold" not in answer["usage"]
                assert bench.engine.requests[-1].params.confidence_threshold is None
        answer = (await bench.post("/v1/responses", {"input": "hi"})).json()
        assert answer["usage"]["confidence_threshold"] == pytest.approx(own + (0.2 - own) / 2)
        metrics = (await bench.client.get("/metrics")).text
        assert 'cdlm_chosen_threshold_count{model_name="tiny"} 5.0' in metrics
    bench.services.gate.in_flight = 0


async def test_without_the_flag_nothing_is_said(bench: Bench) -> None:
    bench.services.gate.in_flight = 500
    answer = (await bench.post("/v1/completions", {"prompt": "hi"})).json()
    bench.services.gate.in_flight = 0
    assert "confidence_threshold" not in answer["usage"]
    assert bench.engine.requests[-1].params.confidence_threshold is None
