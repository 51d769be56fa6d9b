"""Classifier-free guidance: the engine equals the slow decoder, which computes both whole sequences every step."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.oracle.decoding.test_pinned import pin
from tests.support.engines import (
    assert_equal_to_oracle,
    engine_with_few_pages,
    oracle_answer,
    random_requests,
    run,
)
from tests.support.models.checkpoints import MASKED_AXES, OTHER_HALF, axes, build_checkpoint

PARAMS = (
    DecodingParams(guidance_scale=1.5),
    DecodingParams(),
    DecodingParams(guidance_scale=0.5, confidence_threshold=0.9),
    DecodingParams(guidance_scale=3.0, decoding="fixed_steps", steps_per_block=3),
    DecodingParams(guidance_scale=1.0, decoding="entropy_bound", entropy_bound=1.5),
    DecodingParams(guidance_scale=1.0, repetition_penalty=1.3, logit_bias={7: -100.0}, min_tokens=1),
)


def guided_requests(count: int, seed: int) -> list[GenerateRequest]:
    return [
        msgspec.structs.replace(request, params=PARAMS[index % len(PARAMS)])
        for index, request in enumerate(random_requests(count, seed))
    ]


@axes(*MASKED_AXES, sample=OTHER_HALF)
def test_guided_and_plain_rows_of_one_batch_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    requests = guided_requests(12, seed=6)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_guided_rows_that_are_preempted_and_resumed_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    engine = engine_with_few_pages(directory)
    requests = [
        msgspec.structs.replace(request, prompt_ids=request.prompt_ids[:20], max_tokens=min(request.max_tokens, 24))
        for request in guided_requests(12, seed=3)
    ]
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)
    engine.check()


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_guided_rows_with_tokens_pinned_behind_them_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=8)
    requests = pin(guided_requests(12, seed=8), seed=8)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


def test_the_scale_changes_the_answer(tmp_path: Path) -> None:
    """Guards the tests above: guidance without an effect would make them vacuous."""
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    requests = [
        GenerateRequest(
            request_id=str(scale),
            prompt_ids=[5, 9, 2],
            max_tokens=24,
            ignore_eos=True,
            params=DecodingParams(guidance_scale=scale),
        )
        for scale in (0.0, 0.5, 2.0, 8.0)
    ]
    assert len({tuple(answer.token_ids) for answer in run(engine, requests).values()}) == len(requests)


@pytest.mark.parametrize("axis", ["plain", "shifted", "absolute"])
def test_the_prefix_cache_never_mixes_with_guidance(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=2)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    prompt = [(7 * index) % 60 for index in range(140)]
    for turn, scale in enumerate((0.0, 1.0, 0.0, 1.0)):
        request = GenerateRequest(
            request_id=str(turn), prompt_ids=prompt, max_tokens=20, params=DecodingParams(guidance_scale=scale)
        )
        assert_equal_to_oracle(directory, [request], run(engine, [request]))
    engine.check()


def test_log_probabilities_are_those_of_the_guided_distribution(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, seed=1)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    request = GenerateRequest(
        request_id="a", prompt_ids=[5, 9, 2], max_tokens=12, ignore_eos=True, logprobs=0,
        params=DecodingParams(guidance_scale=2.0),
    )  # fmt: skip
    truth, answer = oracle_answer(directory, request), run(engine, [request])["a"]
    expected = [float(scores[token]) for token, (scores, _) in zip(truth.token_ids, truth.scores, strict=True)]
    found = torch.tensor([entry.logprob for entry in answer.logprobs])
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"max_num_batched_tokens": 192, "max_prefill_tokens": 32}, {"kv_cache_memory": 2 * 192 * 2 * 4 * 16}],
)
def test_the_longest_guided_request_runs_and_a_longer_one_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    directory = build_checkpoint(tmp_path, max_model_len=128)
    engine = Engine(EngineOptions(model=str(directory), page_size=4, **options))
    limit = engine.max_guided_len
    assert 0 < limit < 128
    assert limit == engine.describe().max_guided_len
    fits = GenerateRequest(
        request_id="a", prompt_ids=[1] * (limit - 10), max_tokens=10, ignore_eos=True,
        params=DecodingParams(guidance_scale=1.0),
    )  # fmt: skip
    assert len(run(engine, [fits])["a"].token_ids) == 10
    with pytest.raises(RequestError, match="guidance_scale: prompt"):
        engine.add(msgspec.structs.replace(fits, max_tokens=11))
    assert not engine.busy
