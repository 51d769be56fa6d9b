"""Decided tokens that a later step of their block replaces: the engine equals the slow decoder, token for token."""

from pathlib import Path

import msgspec
import pytest

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.oracle.decoding.test_pinned import pin
from tests.support.engines import assert_equal_to_oracle, engine_with_few_pages, oracle_answer, run
from tests.support.matrix import some
from tests.support.models.checkpoints import MASK, ONE_HALF, axes, build_checkpoint
from tests.support.replacing import REPLACING_AXES, replaced, replacing_requests

RULES = (
    DecodingParams(decoding="factor", decoding_factor=1.5),
    DecodingParams(decoding="entropy_bound", entropy_bound=1.5),
    DecodingParams(decoding="fixed_steps", steps_per_block=3),
    DecodingParams(decoding="threshold", confidence_threshold=0.2),
    DecodingParams(decoding="fixed_steps", steps_per_block=1),
)
EDITS = (
    DecodingParams(presence_penalty=1.5),
    DecodingParams(frequency_penalty=0.9, confidence_threshold=0.2),
    DecodingParams(repetition_penalty=1.7),
    DecodingParams(presence_penalty=-1.0, frequency_penalty=-0.5, repetition_penalty=0.8),
    DecodingParams(logit_bias={5: -100.0, 9: 2.5}, bad_words=[[7]], min_tokens=1),
    DecodingParams(allowed_token_ids=[*range(0, 60, 2), 62], frequency_penalty=0.4),
)
DRAWS = (
    DecodingParams(temperature=0.7, seed=3),
    DecodingParams(temperature=1.2, seed=-5, confidence_threshold=0.2),
    DecodingParams(temperature=1.0, seed=8, frequency_penalty=0.7),
)
GUIDED = (
    DecodingParams(guidance_scale=1.5),
    DecodingParams(guidance_scale=0.5, repetition_penalty=1.3),
    DecodingParams(confidence_threshold=0.2),
)


def engine_of(directory: Path, **options: object) -> Engine:
    return Engine(EngineOptions(**{"model": str(directory), "page_size": 4, **options}))  # type: ignore[arg-type]


@axes(*REPLACING_AXES)
def test_a_mixed_batch_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=2)
    requests = replacing_requests(8, 2)
    assert_equal_to_oracle(directory, requests, run(engine_of(directory), requests, join_every=2))
    assert replaced(directory, requests) > 20


@pytest.mark.parametrize(
    ("axis", "ways"),
    some(
        [("shifted", RULES), ("absolute", RULES), ("absolute_shifted", EDITS), ("plain", EDITS), ("plain", DRAWS)],
        every=2,
    ),
    ids=["rules-shifted", "rules-absolute", "edits-absolute_shifted", "edits-plain", "draws-plain"],
)
def test_rows_with_other_rules_edits_and_draws_equal_oracle(
    tmp_path: Path, axis: str, ways: tuple[DecodingParams, ...]
) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    requests = replacing_requests(6 if ways is DRAWS else 8, 6, *ways)
    assert_equal_to_oracle(directory, requests, run(engine_of(directory), requests, join_every=2))
    assert replaced(directory, requests) > 20


@pytest.mark.parametrize("axis", some(["shifted", "absolute"], every=2))
def test_guided_rows_and_pinned_tokens_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=9)
    requests = pin(replacing_requests(9, 9, *GUIDED), seed=9)
    assert_equal_to_oracle(directory, requests, run(engine_of(directory), requests, join_every=2))
    assert replaced(directory, requests) > 20


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_preempted_and_resumed_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    requests = replacing_requests(8, 3)
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)


@axes(*[axis for axis in ONE_HALF if axis in REPLACING_AXES])
def test_prompts_in_pieces_and_cached_ones_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=5)
    requests = replacing_requests(6, 5)
    engine = engine_of(directory, max_prefill_tokens=3)
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=1))
    assert engine.cache.pool.cached > 0


def test_a_conversation_finds_its_replaced_tokens_in_the_cache(tmp_path: Path) -> None:
    """The pages of a finished block hold the keys of the tokens that it ended with."""
    directory = build_checkpoint(tmp_path, "absolute", seed=5)
    engine = engine_of(directory)
    first = GenerateRequest(
        request_id="a", prompt_ids=[5, 9, 2], max_tokens=45, ignore_eos=True, params=DecodingParams(edit_threshold=0.1)
    )
    answer = run(engine, [first])["a"]
    assert oracle_answer(directory, first).replaced > 3
    second = msgspec.structs.replace(first, prompt_ids=[5, 9, 2, *answer.token_ids, 7], max_tokens=12, step_map=True)
    engine.add(second)
    assert engine.cache.match(engine.sequences["a"]) >= 40
    engine.abort("a")
    assert_equal_to_oracle(directory, [second], run(engine, [second]))


def test_a_threshold_of_one_replaces_nothing_and_takes_no_step_more(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine = engine_of(directory, edit_threshold=0.1)
    plain = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=30, ignore_eos=True, step_map=True)
    default = run(engine, [plain])["a"]
    off = msgspec.structs.replace(plain, params=DecodingParams(edit_threshold=1.0))
    assert_equal_to_oracle(directory, [off], run(engine, [off]))
    named = msgspec.structs.replace(plain, params=DecodingParams(edit_threshold=0.1))
    assert_equal_to_oracle(directory, [named], {"a": default})
    assert default.token_ids != run(engine, [off])["a"].token_ids


def test_a_mask_id_in_a_prompt_and_the_prompt_itself_stay(tmp_path: Path) -> None:
    """Prompt tokens share the first block, and every prediction replaces what it may."""
    directory = build_checkpoint(tmp_path, "absolute", seed=2)
    prompt = [1, MASK, 3, MASK, 5]
    requests = [
        GenerateRequest(
            request_id=str(length), prompt_ids=(prompt * 3)[:length], max_tokens=19, ignore_eos=True, step_map=True,
            params=DecodingParams(edit_threshold=1e-6),
        )
        for length in range(1, 10)
    ]  # fmt: skip
    answers = run(engine_of(directory), requests)
    assert_equal_to_oracle(directory, requests, answers)
    assert all(MASK not in answer.token_ids for answer in answers.values())
    assert replaced(directory, requests) > 20


@pytest.mark.parametrize("most", [1, 3, 6, 9])
def test_a_limit_of_steps_holds_for_those_after_the_last_mask_too(tmp_path: Path, most: int) -> None:
    engine = engine_of(build_checkpoint(tmp_path, "plain", seed=2))
    params = DecodingParams(edit_threshold=1e-6, max_steps_per_block=most)
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=40, ignore_eos=True, params=params)
    steps = run(engine, [request])["a"].steps
    free = msgspec.structs.replace(request, params=DecodingParams(edit_threshold=1e-6))
    assert max(steps) == most < max(run(engine, [free])["a"].steps)


def test_at_most_sixteen_steps_follow_the_last_mask(tmp_path: Path) -> None:
    """With one step that fills the block, some blocks never settle."""
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    ways = [DecodingParams(decoding="fixed_steps", steps_per_block=1, edit_threshold=above) for above in (1e-6, 0.5)]
    requests = [
        GenerateRequest(
            request_id=str(index), prompt_ids=[index + 1, 9, 2], max_tokens=16, ignore_eos=True, step_map=True,
            params=ways[index % 2],
        )
        for index in range(6)
    ]  # fmt: skip
    answers = run(engine_of(directory), requests)
    assert_equal_to_oracle(directory, requests, answers)
    steps = {step for answer in answers.values() for step in answer.steps}
    assert max(steps) == 17
    assert min(steps) < 17
