"""Tokens that may not be written: the engine equals the slow decoder in mixed batches, on every axis."""

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, random_requests, run
from tests.support.models.checkpoints import AXES, EOS, MASK, VOCAB, build_checkpoint

RULES = (
    {},
    {"confidence_threshold": 0.02},
    {"decoding": "factor", "decoding_factor": 2.0},
    {"decoding": "entropy_bound", "entropy_bound": 9.0},
    {"decoding": "fixed_steps", "steps_per_block": 2},
    {"confidence_threshold": 0.05, "temperature": 1.3, "seed": 11},
    {"confidence_threshold": 0.05, "frequency_penalty": 0.4, "guidance_scale": 0.5},
)


def asking(count: int, seed: int, bans: Callable[[random.Random], dict], axis: str) -> list[GenerateRequest]:
    """Random requests, two in three with ``bans``, of which every rule has some."""
    rng = random.Random(seed)
    rules = RULES[:-1] if axis == "autoregressive_without_mask" else RULES  # Guidance needs a mask token.
    return [
        msgspec.structs.replace(
            request,
            params=DecodingParams(**rules[index % len(rules)], **(bans(rng) if index % 3 else {})),
            logprobs=(None, 2)[index % 2],
        )
        for index, request in enumerate(random_requests(count, seed))
    ]


def some_allowed(rng: random.Random) -> dict:
    return {"allowed_token_ids": rng.sample(range(EOS + 1), 5), "logit_bias": {3: 2.0, 4: -100.0}}


@pytest.mark.parametrize("axis", AXES)
def test_rows_that_allow_some_tokens_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    requests = asking(21, 6, some_allowed, axis)
    answers = run(Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4)), requests, join_every=2)
    assert_equal_to_oracle(directory, requests, answers)
    for request in requests:
        if allowed := set(request.params.allowed_token_ids):
            assert set(answers[request.request_id].token_ids) <= allowed - {4}


def test_an_answer_ends_only_where_its_stop_token_is_allowed(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    for allowed, reason in (([5, 9], "length"), ([5, 9, EOS], "stop")):
        params = DecodingParams(allowed_token_ids=allowed, logit_bias={EOS: 100.0})
        request = GenerateRequest(request_id="a", prompt_ids=[1, 2], max_tokens=20, params=params)
        assert run(engine, [request])["a"].finish_reason == reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids: token ids must be below"),
        ({"allowed_token_ids": [MASK]}, "allowed_token_ids: token id .* is the mask token"),
        ({"allowed_token_ids": [3], "logit_bias": {3: -100.0}}, "allowed_token_ids leaves no token"),
        ({"allowed_token_ids": [EOS], "min_tokens": 1}, "allowed_token_ids leaves no token"),
    ],
)
def test_impossible_bans_are_refused(tmp_path: Path, fields: dict, message: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match=message):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, params=DecodingParams(**fields)))
    assert not engine.busy
