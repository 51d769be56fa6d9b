"""Tokens pinned behind an answer: the engine equals the slow decoder, and they change what is written before them."""

import random
from pathlib import Path

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import (
    assert_equal_to_oracle,
    engine_with_few_pages,
    oracle_answer,
    random_requests,
    run,
)
from tests.support.models.checkpoints import EOS, MASK, OTHER_HALF, VOCAB, axes, build_checkpoint


def pin(requests: list[GenerateRequest], seed: int) -> list[GenerateRequest]:
    """Pins up to 12 tokens, more than a block has, behind two of three requests; end tokens may be among them."""
    rng = random.Random(seed)
    return [
        msgspec.structs.replace(request, pinned=[rng.randrange(MASK) for _ in range(rng.choice((0, 3, 12)))])
        for request in requests
    ]


@axes(sample=OTHER_HALF)
def test_pinned_rows_of_a_mixed_batch_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=9)
    requests = pin(random_requests(16, seed=9), seed=9)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_pinned_tokens_are_not_written_ones_to_the_edits(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    params = DecodingParams(frequency_penalty=2.0, presence_penalty=1.0)
    plain = [
        msgspec.structs.replace(request, params=params, max_tokens=9 + index % 6, ignore_eos=True)
        for index, request in enumerate(random_requests(12, seed=6))
    ]
    # What the answer would say anyway is pinned behind it, so that a penalty for it would be seen.
    alone = run(engine, plain)
    requests = [msgspec.structs.replace(request, pinned=alone[request.request_id].token_ids[-4:]) for request in plain]
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


def test_pins_survive_a_preemption(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=3, max_model_len=96)
    requests = pin(random_requests(8, seed=3), seed=3)
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)


def test_pins_are_seen_inside_their_block_and_nowhere_else(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "plain", seed=6)), page_size=4))

    def answer(wanted: int, pinned: list[int]) -> list[int]:
        request = GenerateRequest(
            request_id="a", prompt_ids=[5, 9, 2], max_tokens=wanted, ignore_eos=True, pinned=pinned
        )
        return run(engine, [request])["a"].token_ids

    alone = answer(12, [])
    tails = {tuple(answer(12, [token, token + 1])) for token in range(0, 60, 6)}
    assert len(tails) > 3
    assert all(len(tail) == 12 and list(tail[:8]) == alone[:8] for tail in tails)  # The block before is blind to them.
    assert answer(16, [1, 2, 3]) == answer(16, [])  # They begin behind the last block.
    assert answer(12, [7] * 4) == answer(12, [7] * 40)


def test_a_sampled_or_scored_answer_has_no_pins_in_it(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=8)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    request = GenerateRequest(
        request_id="a", prompt_ids=[5, 9], max_tokens=5, logprobs=2, ignore_eos=True, pinned=[EOS, 4]
    )
    answer, truth = run(engine, [request])["a"], oracle_answer(directory, request)
    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids == truth.token_ids
    sampled = msgspec.structs.replace(request, params=DecodingParams(temperature=1.0, seed=3))
    assert len(run(engine, [sampled])["a"].token_ids) == 5


@pytest.mark.parametrize("token", [-1, VOCAB, MASK])
def test_impossible_pins_are_refused(tmp_path: Path, token: int) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match="pinned"):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, pinned=[token]))
