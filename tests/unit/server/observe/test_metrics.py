"""The exposition: every metric with its type and labels from the start, and what the counters count."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdlm.scheduler.messages import EngineStats
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

KV_INFO = {"page_size", "num_pages", "block_size", "num_gpu_blocks"}
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "num_requests_running": ("gauge", set()),
    "num_requests_waiting": ("gauge", set()),
    "kv_cache_usage_ratio": ("gauge", set()),
    "max_num_seqs": ("gauge", set()),
    "cache_config_info": ("gauge", KV_INFO),
    "kv_pages": ("gauge", {"state"}),
    "prompt_tokens": ("counter", set()),
    "generation_tokens": ("counter", set()),
    "discarded_tokens": ("counter", {"reason"}),
    "forward_passes": ("counter", {"phase"}),
    "forward_duration_seconds": ("histogram", set()),
    "denoise_steps_per_block": ("histogram", set()),
    "tokens_finalized_per_forward": ("histogram", set()),
    "block_duration_seconds": ("histogram", set()),
    "time_to_first_token_seconds": ("histogram", set()),
    "inter_token_latency_seconds": ("histogram", set()),
    "e2e_request_latency_seconds": ("histogram", set()),
    "queue_time_seconds": ("histogram", set()),
    "chosen_threshold": ("histogram", set()),
    "batch_rows": ("histogram", set()),
    "batch_tokens": ("histogram", set()),
    "early_stop_saved_blocks": ("counter", set()),
    "preemptions": ("counter", set()),
    "halved_steps": ("counter", set()),
    "replaced_tokens": ("counter", set()),
    "draft_verifications": ("counter", set()),
    "draft_tokens": ("counter", set()),
    "accepted_draft_tokens": ("counter", set()),
    "recomputed_tokens": ("counter", set()),
    "prefix_cache_queries": ("counter", set()),
    "prefix_cache_hits": ("counter", set()),
    "nonfinite_sequences": ("counter", set()),
    "requests_finished": ("counter", {"reason"}),
    "requests_rejected": ("counter", {"reason"}),
    "requests_cancelled": ("counter", {"stage"}),
    "engine_up": ("gauge", set()),
    "engine_last_step_timestamp_seconds": ("gauge", set()),
    "engine_restarts": ("counter", set()),
    "build_info": ("gauge", {"version"}),
}


def value(bench: Bench, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(bench.services.metrics.render("")[0].decode()):
        for sample in family.samples:
            if sample.name == f"cdlm_{name}" and sample.labels == {"model_name": "tiny"} | labels:
                return sample.value
    raise AssertionError((name, labels))


async def test_every_metric_is_there_before_the_first_request(bench: Bench) -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(bench.services.metrics.render("")[0].decode())
        if not family.name.endswith("_created")
    }
    assert set(families) == {f"cdlm_{name}" for name in CONTRACT}
    for name, (kind, labels) in CONTRACT.items():
        family = families[f"cdlm_{name}"]
        assert family.type == kind, name
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"model_name"} | labels, sample
            assert sample.labels["model_name"] == "tiny"


async def test_ours_are_all_there_is_unless_others_are_asked_for(bench: Bench) -> None:
    assert all("cdlm_" in row for row in series(bench))


async def test_labels_never_come_from_clients(bench: Bench) -> None:
    before = series(bench)
    hostile = {"x-request-id": "evil-1", "user-agent": "evil-2"}
    await bench.client.post("/v1/completions", json={"prompt": "hi", "model": "evil-3"}, headers=hostile)
    await bench.client.post("/v1/completions", json={"prompt": "hi", "user": "evil-4"}, headers=hostile)
    await bench.client.get("/evil-5")
    assert series(bench) == before


def series(bench: Bench) -> set[str]:
    return {row.rsplit(" ", 1)[0] for row in bench.services.metrics.render("")[0].decode().splitlines()}


@pytest.mark.parametrize(("stream", "received"), [(False, 0), (True, 4)])
async def test_generation_tokens_are_those_the_client_received(bench: Bench, stream: bool, received: int) -> None:
    bench.engine.hold_after = 1
    body = {"prompt": "hi", "max_tokens": 40, "stream": stream}
    task = asyncio.create_task(bench.post("/v1/completions", body))
    await bench.engine.held.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert value(bench, "generation_tokens_total") == received
    assert value(bench, "discarded_tokens_total", reason="cancelled") == 4 - received


async def test_a_dead_engine_runs_nothing_and_one_that_hangs_shows_what_it_was_handed(bench: Bench) -> None:
    bench.engine.stats = EngineStats(running=2, waiting=1, pages_free=16)
    assert bench.engine.ready is not None
    assert value(bench, "max_num_seqs") == bench.engine.ready.max_num_seqs
    bench.engine.in_flight = 7
    assert value(bench, "num_requests_running") == 2
    assert value(bench, "num_requests_waiting") == 5
    bench.engine.ready = None
    assert value(bench, "num_requests_running") == value(bench, "num_requests_waiting") == 0
    assert value(bench, "engine_up") == 0


async def test_candidates_that_lost_are_tokens_no_client_got(bench: Bench) -> None:
    body = {"prompt": "hi", "max_tokens": 40, "temperature": 1, "n": 1, "best_of": 3}
    answer = (await bench.client.post("/v1/completions", json=body)).json()
    generated = answer["usage"]["completion_tokens"]
    assert value(bench, "generation_tokens_total") == generated / 3
    assert value(bench, "discarded_tokens_total", reason="best_of") == generated * 2 / 3
