"""Steps that are launched before the one before them is read: equal to the slow decoder, whoever opens or leaves."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cdlm.model.decoding.denoiser import Denoiser
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.settings import BlockStart
from cdlm.model.runner import ModelRunner
from cdlm.model.uploads import Uploads
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import ONE_HALF, axes, build_checkpoint


def engine_ahead(directory: Path, **options: Any) -> Engine:
    """An engine on the CPU that launches steps ahead, as on a GPU."""
    engine = Engine(EngineOptions(model=str(directory), page_size=4, max_num_seqs=8, **options))
    engine.runner.uploads = Uploads(torch.device("cpu"))
    engine.runner.run_ahead = True
    return engine


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many steps were launched, when the host had read all before them and when it had not."""
    launched: Counter[str] = Counter()
    run = ModelRunner._run

    def counting(self: ModelRunner, inputs: Any, layout: Any, shape: Any, unread: int = 0, since: int = 0) -> Any:
        launched["ahead" if unread else "read"] += 1
        launched["repeated"] += since > 1
        return run(self, inputs, layout, shape, unread, since)

    monkeypatch.setattr(ModelRunner, "_run", counting)
    return launched


@axes(sample=ONE_HALF)
def test_every_axis_equals_oracle(tmp_path: Path, axis: str, steps: Counter[str]) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=2)
    engine, requests = engine_ahead(directory), random_requests(8, seed=2)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    # An autoregressive model commits a token in every step: nothing can go ahead of that.
    assert (steps["ahead"] > 0) == (engine.manifest.block_length > 1)


@pytest.mark.parametrize(
    "params",
    [
        DecodingParams(confidence_threshold=0.9),
        DecodingParams(confidence_threshold=0.9, max_steps_per_block=5),
        DecodingParams(decoding="fixed_steps", steps_per_block=4),
        DecodingParams(decoding="fixed_steps", steps_per_block=7),
        DecodingParams(decoding="factor", decoding_factor=1.0),
        DecodingParams(decoding="entropy_bound", entropy_bound=0.1),
    ],
    ids=lambda params: f"{params.decoding or 'threshold'}-{params.max_steps_per_block or params.steps_per_block}",
)
def test_each_rule_equals_oracle(tmp_path: Path, params: DecodingParams, steps: Counter[str]) -> None:
    """Rules whose steps are counted, and rules that look at other positions."""
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    engine = engine_ahead(directory)
    requests = [
        GenerateRequest(
            request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=17 + index, params=params, ignore_eos=True
        )
        for index in range(2)
    ]
    answers = run(engine, requests)
    assert steps["ahead"] > 0
    behind = run(Engine(EngineOptions(model=str(directory), page_size=4)), requests)
    for name, answer in answers.items():
        assert (answer.token_ids, answer.steps) == (behind[name].token_ids, behind[name].steps)
    if params.max_steps_per_block is None:  # The slow decoder has no such limit.
        assert_equal_to_oracle(directory, requests, answers)


def test_few_steps_are_launched_for_naught(tmp_path: Path, steps: Counter[str]) -> None:
    """One token per step: all but the last steps of a block go ahead, and all of these are taken."""
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine = engine_ahead(directory)
    params = DecodingParams(confidence_threshold=1.0)
    requests = [GenerateRequest(request_id="0", prompt_ids=[5, 9, 2], max_tokens=37, params=params, ignore_eos=True)]
    answers = run(engine, requests)
    assert_equal_to_oracle(directory, requests, answers)
    taken = sum(answers["0"].steps)
    assert steps["ahead"] + steps["read"] == taken
    assert steps["ahead"] > taken // 2


def test_rows_beside_ones_that_want_processors_equal_oracle(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    engine, requests = engine_ahead(directory), random_requests(6, seed=3)
    edited = DecodingParams(frequency_penalty=0.7, logit_bias={17: 2.0})
    requests = [
        msgspec.structs.replace(each, params=edited if index % 3 == 2 else each.params)
        for index, each in enumerate(requests)
    ]
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=3))


def test_a_row_that_is_taken_by_another_request_takes_no_step_of_the_first(tmp_path: Path) -> None:
    """Aborted between steps; the next request has its row, its prompt's pages and its place, but another threshold."""
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine = engine_ahead(directory, enable_prefix_caching=True)

    def request(name: str, threshold: float) -> GenerateRequest:
        return GenerateRequest(
            request_id=name, prompt_ids=[6, 9, 2, 4, 1, 7, 3, 2], max_tokens=16, ignore_eos=True,
            params=DecodingParams(confidence_threshold=threshold),
        )  # fmt: skip

    expected = run(engine, [request("expected", 0.1)])["expected"]
    assert max(expected.steps) < 8
    for steps in range(1, 8):
        engine.add(request("aborted", 1.0))
        for _ in range(steps):
            engine.step()
        engine.abort("aborted")
        answer = run(engine, [request("next", 0.1)])["next"]
        assert (answer.token_ids, answer.steps) == (expected.token_ids, expected.steps), steps
        engine.check()


def test_a_block_that_begins_anew_takes_no_step_of_what_was_there(tmp_path: Path) -> None:
    """The same row, pages and place."""
    engine = engine_ahead(build_checkpoint(tmp_path, "plain", seed=2))
    params = DecodingParams(confidence_threshold=1.0)
    engine.add(GenerateRequest(request_id="0", prompt_ids=[5, 9, 2], max_tokens=16, params=params, ignore_eos=True))
    for _ in range(3):
        engine.step()
    runner = engine.runner
    assert runner._ahead is not None
    [work] = runner._ahead.inputs.works
    runner.rows.open_block(work.row, BlockStart([], [], 8, {}))
    [result] = runner.step([work])
    assert (result.steps, result.finalized) == (1, 1)
    assert result.tokens.count(engine.manifest.mask_token_id) == 7


@pytest.mark.parametrize("part", ["inputs", "decide"], ids=["before it is sent", "after"])
def test_a_failure_to_launch_ahead_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Every second one fails, in its upload or behind its forward."""
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    engine, params = engine_ahead(directory), DecodingParams(confidence_threshold=1.0)
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=[5, 9, index], max_tokens=24, params=params, ignore_eos=True)
        for index in range(3)
    ]
    ahead, failures = [False], [0]
    launch, original = ModelRunner._launch_ahead, getattr(Denoiser, part)

    def launching(self: ModelRunner, before: Any) -> Any:
        ahead[0] = True
        try:
            return launch(self, before)
        finally:
            ahead[0] = False

    def failing(*arguments: Any, **named: Any) -> Any:
        failures[0] += ahead[0]
        if ahead[0] and failures[0] % 2:
            raise torch.OutOfMemoryError
        return original(*arguments, **named)

    monkeypatch.setattr(ModelRunner, "_launch_ahead", launching)
    monkeypatch.setattr(Denoiser, part, failing)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert failures[0] > 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here")
def test_draws_of_the_kernel_equal_the_oracle(tmp_path: Path, steps: Counter[str]) -> None:
    """Fewer positions are masked than the host knows: the rest of what the kernel reads belongs to nobody."""
    directory = build_checkpoint(tmp_path, "plain", seed=5, num_layers=1, block_length=4)
    ways = [
        DecodingParams(temperature=0.8, seed=3),
        DecodingParams(),
        DecodingParams(temperature=1.1, seed=5, top_k=7, top_p=0.8),
    ]
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=[5, 9, 2 + index], max_tokens=6, params=params)
        for index, params in enumerate(ways)
    ]
    engine = engine_ahead(directory, attention_backend="triton")
    answers = run(engine, requests)
    assert_equal_to_oracle(directory, requests[:2], answers)
    behind = Engine(EngineOptions(model=str(directory), page_size=4))
    assert run(behind, requests)["2"].token_ids == answers["2"].token_ids
    assert steps["ahead"] > 0
