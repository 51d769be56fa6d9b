"""Metrics by vLLM's names: as vLLM declares them, with our figures, and such that its benchmark computes ours."""

from collections.abc import Callable

import msgspec
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from cdlm.scheduler.messages import EngineStats
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

# vLLM's metric -> ours, its type, and its labels beside model_name and engine.
SAME = {
    "num_requests_running": ("num_requests_running", "gauge", {}),
    "num_requests_waiting": ("num_requests_waiting", "gauge", {}),
    "kv_cache_usage_perc": ("kv_cache_usage_ratio", "gauge", {}),
    "cache_config_info": (
        "cache_config_info",
        "gauge",
        {name: name for name in ("page_size", "num_pages", "block_size", "num_gpu_blocks")},
    ),
    "prompt_tokens": ("prompt_tokens", "counter", {}),
    "generation_tokens": ("generation_tokens", "counter", {}),
    "num_preemptions": ("preemptions", "counter", {}),
    "prefix_cache_queries": ("prefix_cache_queries", "counter", {}),
    "prefix_cache_hits": ("prefix_cache_hits", "counter", {}),
    "corrupted_requests": ("nonfinite_sequences", "counter", {}),
    "spec_decode_num_drafts": ("draft_verifications", "counter", {}),
    "spec_decode_num_draft_tokens": ("draft_tokens", "counter", {}),
    "spec_decode_num_accepted_tokens": ("accepted_draft_tokens", "counter", {}),
    "request_success": ("requests_finished", "counter", {"finished_reason": "reason"}),
    "time_to_first_token_seconds": ("time_to_first_token_seconds", "histogram", {}),
    "inter_token_latency_seconds": ("inter_token_latency_seconds", "histogram", {}),
    "e2e_request_latency_seconds": ("e2e_request_latency_seconds", "histogram", {}),
    "request_queue_time_seconds": ("queue_time_seconds", "histogram", {}),
}
DIFFUSION = ("denoising_steps", "canvas_positions", "committed_tokens")


def families(bench: Bench) -> dict[str, Metric]:
    text = bench.services.metrics.render("")[0].decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def diffusion(bench: Bench) -> list[float]:
    found = families(bench)
    for name in DIFFUSION:
        assert found[f"vllm:diffusion_num_{name}"].type == "counter"
        [sample] = found[f"vllm:diffusion_num_{name}"].samples
        assert sample.name == f"vllm:diffusion_num_{name}_total"
        assert sample.labels == {"model_name": "tiny", "engine": "0"}
    return [found[f"vllm:diffusion_num_{name}"].samples[0].value for name in DIFFUSION]


@pytest.fixture
def compatible(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(metrics_compat="vllm")


def step(bench: Bench, **figures: object) -> None:
    bench.services.metrics.observe_step(EngineStats(phase="denoise", **figures))  # type: ignore[arg-type]


async def test_theirs_have_our_figures_by_their_names_types_and_labels(compatible: Bench) -> None:
    async with compatible.client:
        await compatible.complete()
        await compatible.complete(max_tokens=3)
    compatible.engine.stats = EngineStats(running=2, waiting=1, pages_free=9, pages_active=7)
    step(compatible, preemptions=3, admitted_prompt_tokens=5, cached_prompt_tokens=4, queue_seconds=[0.5, 3.0])
    step(compatible, verifications=2, draft_tokens=9, accepted_draft_tokens=6, nonfinite_sequences=1)
    found = families(compatible)
    theirs = {name for name in found if name.startswith("vllm:")}
    assert theirs == {f"vllm:{name}" for name in SAME} | {f"vllm:diffusion_num_{name}" for name in DIFFUSION}
    for name, (ours, kind, renamed) in SAME.items():
        family, own = found[f"vllm:{name}"], found[f"cdlm_{ours}"]
        assert family.type == own.type == kind, name
        assert [sample.value for sample in family.samples] == [sample.value for sample in own.samples], name
        assert any(sample.value for sample in family.samples), name
        for sample, counterpart in zip(family.samples, own.samples, strict=True):
            assert sample.name.removeprefix(f"vllm:{name}") == counterpart.name.removeprefix(f"cdlm_{ours}")
            labels = dict(sample.labels)
            assert labels.pop("engine") == "0"
            assert {renamed.get(label, label): value for label, value in labels.items()} == counterpart.labels
            assert set(labels) - {"le"} == {"model_name", *renamed}


async def test_the_benchmark_of_vllm_computes_the_steps_of_a_block(compatible: Bench) -> None:
    assert diffusion(compatible) == [0, 0, 0]
    assert compatible.engine.ready is not None
    block_length = compatible.engine.ready.block_length
    # Two blocks of three denoise steps and one of six.
    for steps in (3, 3, 6):
        for _ in range(steps - 1):
            step(compatible, finalized_tokens=0)
        step(compatible, finalized_tokens=block_length, steps_per_block=[steps])
    steps, positions, committed = diffusion(compatible)
    # This is how `vllm bench serve` makes its table of the differences of these counters.
    canvas = positions / steps
    canvases = committed / canvas
    denoising = steps - canvases
    assert (canvas, canvases, denoising) == (block_length, 3, 12)
    assert (denoising / canvases, committed / denoising) == (4, 3 * block_length / 12)


async def test_a_next_token_model_has_no_diffusion(compatible: Bench) -> None:
    ready = compatible.engine.ready
    assert ready is not None
    for other in (None, msgspec.structs.replace(ready, block_length=1)):
        compatible.engine.ready = other
        assert not any(name.startswith("vllm:diffusion") for name in families(compatible))
    compatible.engine.ready = ready
    assert diffusion(compatible) == [0, 0, 0]


async def test_both_formats_parse_and_ours_stay_as_they_are(
    compatible: Bench, make_bench: Callable[..., Bench]
) -> None:
    body, kind = compatible.services.metrics.render("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert "vllm:request_success" in {family.name for family in open_families(body.decode())}
    plain = make_bench().services.metrics.render("")[0].decode()
    names = {row.split("{")[0] for row in compatible.services.metrics.render("")[0].decode().splitlines()}
    assert {row.split("{")[0] for row in plain.splitlines()} == {row for row in names if "vllm" not in row}
    assert "vllm" not in plain
    # A reader that adds up what begins with a name would count the time that a series began.
    assert not any(name.startswith("vllm:") and name.endswith("_created") for name in names)
