"""A step map says at which step of its block each token was finalized; with it the trajectory can be computed again."""

from pathlib import Path
from typing import Any

import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import read_checkpoint, run
from tests.support.models.checkpoints import axes, build_checkpoint
from tests.support.trajectories import replay

MAPPED: dict[str, Any] = {"prompt_ids": [5, 9, 2], "max_tokens": 21, "ignore_eos": True, "step_map": True}


@axes("plain", "shifted", "absolute_shifted")
def test_the_trajectory_of_a_draw_gives_its_log_probabilities(tmp_path: Path, axis: str) -> None:
    """What a policy gradient needs: the recomputed ratio of an unchanged model is 1 in every step."""
    directory = build_checkpoint(tmp_path, axis, seed=5)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    manifest = read_checkpoint(directory)[2]
    shared = 0 if manifest.block_origin == "prompt_end" else len(MAPPED["prompt_ids"])
    several, whole_blocks = 0, MAPPED | {"max_tokens": 3 * manifest.block_length - shared}
    for draw in range(4):
        params = DecodingParams(temperature=1.0, seed=draw, decoding="fixed_steps", steps_per_block=3)
        request = GenerateRequest(request_id=str(draw), params=params, logprobs=0, **whole_blocks)
        answer = run(engine, [request])[str(draw)]
        assert [entry.logprob for entry in answer.logprobs] == pytest.approx(
            replay(directory, request.prompt_ids, answer.token_ids, answer.step_map), abs=1e-4
        )
        several += len(set(answer.step_map))
    assert several > 8


def test_draws_of_one_prompt_have_maps_of_their_own(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "plain", seed=1)), page_size=4))
    requests = [
        GenerateRequest(
            request_id=str(seed),
            params=DecodingParams(temperature=1.0, seed=seed, confidence_threshold=0.1),
            **MAPPED,
        )
        for seed in range(4)
    ]
    answers = run(engine, requests)
    assert len({tuple(answer.step_map) for answer in answers.values()}) > 1
    assert all(len(answer.step_map) == len(answer.token_ids) for answer in answers.values())


def test_nobody_else_gets_a_map_and_asking_changes_no_token(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "shifted", seed=1)), page_size=4))
    plain = run(engine, [GenerateRequest(request_id="a", **MAPPED | {"step_map": False})])["a"]
    mapped = run(engine, [GenerateRequest(request_id="a", **MAPPED)])["a"]
    assert (plain.token_ids, plain.steps) == (mapped.token_ids, mapped.steps)
    assert (plain.step_map, len(mapped.step_map)) == ([], 21)
