"""The engine's own rules: what it refuses, what it frees, and what a failing step may touch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError, RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.models.checkpoints import build_checkpoint


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def engine(directory: Path) -> Engine:
    return Engine(EngineOptions(model=str(directory), max_num_seqs=4, page_size=4))


def request(name: str = "a", prompt: int = 5, **fields: object) -> GenerateRequest:
    values = {"max_tokens": 20, "ignore_eos": True, **fields}
    return GenerateRequest(request_id=name, prompt_ids=list(range(prompt)), **values)  # type: ignore[arg-type]


def finish(engine: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while engine.busy:
        for output in engine.step().outputs:
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
    engine.check()
    assert engine.cache.pool.active == 0
    return tokens


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": 0}, "prompt is empty"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"prompt": 60, "max_tokens": 197}, "exceed the context of 256"),
        ({"priority": 2**31}, r"priority must be in -2147483648\.\.2147483647, got 2147483648"),
        ({"priority": -(2**31) - 1}, "priority must be in"),
    ],
)
def test_impossible_requests_are_refused_and_leave_nothing(engine: Engine, fields: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        engine.add(request(**fields))
    assert not engine.busy


@pytest.mark.parametrize("token", [-1, 64])
def test_unknown_token_ids_are_refused(engine: Engine, token: int) -> None:
    with pytest.raises(RequestError, match=r"outside 0\.\.63"):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1, token], max_tokens=4))


def test_an_id_in_flight_is_refused(engine: Engine) -> None:
    engine.add(request("a"))
    with pytest.raises(RequestError, match="already in flight"):
        engine.add(request("a"))
    finish(engine)
    engine.add(request("a"))
    finish(engine)


def test_more_requests_than_rows_all_finish(engine: Engine) -> None:
    for index in range(11):
        engine.add(request(str(index), prompt=index + 1))
    tokens = finish(engine)
    assert {name: len(ids) for name, ids in tokens.items()} == {str(index): 20 for index in range(11)}


def test_abort_frees_pages_at_once_in_every_state(engine: Engine) -> None:
    for index in range(6):  # Four run, two wait.
        engine.add(request(str(index)))
    engine.step()
    assert engine.cache.pool.active > 0
    for index in range(6):
        engine.abort(str(index))
        engine.check()
    assert not engine.busy
    assert engine.cache.pool.active == 0
    engine.abort("never there")


def test_max_steps_per_block_bounds_every_block(engine: Engine) -> None:
    params = DecodingParams(confidence_threshold=1.0, max_steps_per_block=3)
    engine.add(request("a", params=params, max_tokens=24))
    steps = []
    while engine.busy:
        steps += [output.denoise_steps for output in engine.step().outputs]
    assert steps == [3, 3, 3]


@pytest.mark.parametrize(
    ("options", "params", "expected"),
    [
        ({}, DecodingParams(decoding="fixed_steps", steps_per_block=3), [[3, 3, 2]] * 2),
        ({}, DecodingParams(decoding="fixed_steps", steps_per_block=5), [[2, 2, 2, 1, 1]] * 2),
        ({}, DecodingParams(decoding="fixed_steps", steps_per_block=99), [[1] * 8] * 2),
        ({}, DecodingParams(decoding="fixed_steps"), [[1] * 8] * 2),
        ({"decoding": "fixed_steps", "steps_per_block": 2}, DecodingParams(), [[4, 4]] * 2),
        ({"decoding": "fixed_steps", "steps_per_block": 2}, DecodingParams(steps_per_block=1), [[8]] * 2),
        ({"decoding": "fixed_steps"}, DecodingParams(max_steps_per_block=2), [[4, 4]] * 2),
        ({"decoding": "fixed_steps"}, DecodingParams(confidence_threshold=0.001), [[8]] * 2),
        ({"steps_per_block": 4}, DecodingParams(decoding="fixed_steps"), [[2] * 4] * 2),
        ({"decoding": "factor", "decoding_factor": 99.0}, DecodingParams(), [[8]] * 2),
        ({"entropy_bound": 999.0}, DecodingParams(decoding="entropy_bound"), [[8]] * 2),
    ],
)
def test_the_rule_of_request_and_engine(
    tmp_path: Path, options: dict[str, Any], params: DecodingParams, expected: list[list[int]]
) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4, **options))
    engine.add(request("a", params=params, max_tokens=16))
    blocks: list[list[int]] = [[]]
    while engine.busy:
        report = engine.step()
        blocks[-1].append(report.stats.finalized_tokens)
        if report.outputs:
            blocks.append([])
    assert blocks == [*expected, []]


def test_threshold_one_takes_one_token_a_step(engine: Engine) -> None:
    engine.add(request("a", params=DecodingParams(confidence_threshold=1.0), max_tokens=16))
    reports = []
    while engine.busy:
        reports.append(engine.step())
    assert all(report.stats.finalized_tokens == 1 for report in reports)


def test_no_forward_commits_the_last_block(engine: Engine) -> None:
    engine.add(request("a", params=DecodingParams(confidence_threshold=1.0), max_tokens=16))
    phases = []
    forwards = 0
    while engine.busy:
        report = engine.step()
        phases.append(report.stats.phase)
        forwards += sum(output.forward_passes for output in report.outputs)
    assert forwards == len(phases) == 16
    assert phases.count("prefill") == 1
    assert phases.count("commit") == 1


def test_prefill_denoise_and_commit_of_different_requests_share_a_forward(engine: Engine) -> None:
    engine.add(request("a", params=DecodingParams(confidence_threshold=1.0), max_tokens=24))
    for _ in range(8):  # Block 0 is complete; the next forward commits it.
        engine.step()
    engine.add(request("b", prompt=6, params=DecodingParams(confidence_threshold=1.0), max_tokens=24))
    report = engine.step()
    assert (report.stats.phase, report.stats.batch_rows) == ("mixed", 2)
    assert report.stats.batch_tokens == (8 + 8) + (6 + 8)  # [commit][block 1] and [prompt][block 0].
    assert report.stats.finalized_tokens == 2
    finish(engine)


def test_a_seed_gives_the_same_tokens_alone_and_in_company(engine: Engine) -> None:
    params = DecodingParams(temperature=1.2, top_p=0.95, seed=17)
    engine.add(request("a", params=params, max_tokens=30))
    alone = finish(engine)["a"]
    engine.add(request("b", prompt=9, params=DecodingParams(temperature=0.8, seed=3)))
    engine.step()
    engine.add(request("a", params=params, max_tokens=30))
    engine.add(request("c", prompt=2))
    assert finish(engine)["a"] == alone
    engine.add(request("a", params=DecodingParams(temperature=1.2, top_p=0.95, seed=18), max_tokens=30))
    assert finish(engine)["a"] != alone


def test_settings_that_cannot_work_fail_at_start(directory: Path) -> None:
    with pytest.raises(EngineStartError, match="kv_cache_memory"):
        Engine(EngineOptions(model=str(directory), kv_cache_memory=1000))
    with pytest.raises(EngineStartError, match="max_num_batched_tokens"):
        Engine(EngineOptions(model=str(directory), max_num_batched_tokens=64))
    with pytest.raises(EngineStartError, match="device 'gpu9'"):
        Engine(EngineOptions(model=str(directory), device="gpu9"))
    with pytest.raises(EngineStartError, match="dtype 'int3'"):
        Engine(EngineOptions(model=str(directory)).model_copy(update={"dtype": "int3"}))


def test_the_pool_takes_its_share_of_the_free_memory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = Engine(EngineOptions(model=str(directory), page_size=8, max_num_seqs=3))
    assert roomy.cache.num_pages == 3 * (256 + 8) // 8
    page = 2 * 2 * 8 * 2 * 8 * 4
    monkeypatch.setattr("cdlm.scheduler.loading.free_memory", lambda _device: 4 * 50 * page)
    assert Engine(EngineOptions(model=str(directory), page_size=8)).cache.num_pages == 50
    monkeypatch.setattr("cdlm.scheduler.loading.free_memory", lambda _device: 4 * 10 * page)
    with pytest.raises(EngineStartError, match="the free memory for the KV cache.* 10 pages"):
        Engine(EngineOptions(model=str(directory), page_size=8))


def test_bfloat16_runs(directory: Path) -> None:
    engine = Engine(EngineOptions(model=str(directory), dtype="bfloat16", page_size=4))
    assert engine.runner.cache.keys.dtype == torch.bfloat16
    engine.add(request("a"))
    assert len(finish(engine)["a"]) == 20


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 60), st.integers(1, 40)),
            st.tuples(st.just("abort"), st.integers(0, 8), st.just(0)),
            st.tuples(st.just("step"), st.just(0), st.just(0)),
        ),
        max_size=40,
    )
)
def test_any_order_of_arrivals_and_aborts_keeps_the_pages(tight: Engine, script: list[tuple[str, int, int]]) -> None:
    wanted: dict[str, int] = {}
    got: dict[str, int] = {}

    def step() -> None:
        for output in tight.step().outputs:
            got[output.request_id] = got.get(output.request_id, 0) + len(output.token_ids)
        tight.check()

    for index, (action, first, second) in enumerate(script):
        if action == "add":
            wanted[str(index)] = second
            tight.add(request(str(index), prompt=first, max_tokens=second))
        elif action == "abort" and wanted:
            name = sorted(wanted)[first % len(wanted)]
            tight.abort(name)
            if got.get(name, 0) < wanted[name]:
                del wanted[name]
        else:
            step()
    while tight.busy:
        step()
    assert {name: got[name] for name in wanted} == wanted
    assert tight.cache.pool.active == 0


@pytest.fixture
def tight(tmp_path: Path) -> Engine:
    """Pages for little more than one request: preemption is the rule."""
    directory = build_checkpoint(tmp_path, max_model_len=104)
    page = 2 * 2 * 4 * 2 * 8 * 4
    return Engine(EngineOptions(model=str(directory), max_num_seqs=4, page_size=4, kv_cache_memory=32 * page))
