"""The engine equals the slow decoder token for token, for every backbone axis, alone and in mixed batches."""

import random
from pathlib import Path

import msgspec
import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from cdlm.training.data.mixture import draw_problems
from tests.support.engines import (
    assert_equal_to_oracle,
    engine_with_few_pages,
    oracle_answer,
    random_requests,
    run,
)
from tests.support.matrix import matrix, some
from tests.support.models.checkpoints import AXES, MASK, SAMPLED_AXES, VOCAB, build_checkpoint


@pytest.mark.parametrize(("axis", "seed"), matrix(list(AXES), [0, 1], strength=1, first=SAMPLED_AXES))
def test_mixed_batch_equals_oracle(tmp_path: Path, axis: str, seed: int) -> None:
    directory = build_checkpoint(tmp_path, axis, seed)
    requests = random_requests(12, seed)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.slow
@pytest.mark.whole  # In the usual run ``oracle/attention/test_compiled.py`` has its mask.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # What the compiler imports warns about itself.
def test_the_compiled_attention_equals_oracle(tmp_path: Path) -> None:
    """With causal segments and others, cut where prompts are taken in pieces."""
    directory = build_checkpoint(tmp_path, "causal_prompt", seed=5)
    requests = random_requests(4, seed=5)
    options = EngineOptions(
        model=str(directory), max_num_seqs=4, page_size=16, attention_backend="flex", max_prefill_tokens=9
    )
    assert_equal_to_oracle(directory, requests, run(Engine(options), requests, join_every=2))


@pytest.mark.parametrize("axis", ["plain", "shifted"])
def test_thirty_two_ragged_rows_equal_oracle_and_themselves_alone(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=7)
    requests = random_requests(32, seed=7)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=16))
    together = run(engine, requests)
    assert_equal_to_oracle(directory, requests, together)
    for request in requests[:6]:
        alone = run(engine, [request])[request.request_id]
        assert alone.token_ids == together[request.request_id].token_ids


RULES = (
    DecodingParams(decoding="factor"),
    DecodingParams(decoding="factor", decoding_factor=1.5),
    DecodingParams(decoding="factor", decoding_factor=2.0),
    DecodingParams(decoding="entropy_bound"),
    DecodingParams(decoding="entropy_bound", entropy_bound=1.5),
    DecodingParams(decoding="entropy_bound", entropy_bound=3.0),
    DecodingParams(decoding="fixed_steps", steps_per_block=6),
    DecodingParams(decoding="fixed_steps", steps_per_block=3),
    DecodingParams(decoding="fixed_steps", steps_per_block=1),
    DecodingParams(decoding="threshold", confidence_threshold=0.6),
    DecodingParams(),
)


@pytest.mark.parametrize("axis", some(["absolute_shifted", "plain", "first_token_autoregressive", "shifted"], every=2))
def test_rows_of_one_batch_under_different_rules_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=4)
    requests = [
        msgspec.structs.replace(request, params=RULES[index % len(RULES)])
        for index, request in enumerate(random_requests(22, seed=4))
    ]
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


def test_every_rule_and_its_number_change_the_steps(tmp_path: Path) -> None:
    """Guards the test above: rules that decide alike would make it vacuous."""
    directory = build_checkpoint(tmp_path, "plain", seed=4)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    requests = [
        GenerateRequest(request_id=str(index), prompt_ids=[5, 9, 2], max_tokens=40, params=params, ignore_eos=True)
        for index, params in enumerate(RULES)
    ]
    answers = run(engine, requests)
    steps = [answers[str(index)].steps for index in range(len(RULES))]
    assert len({tuple(found) for found in steps}) == len(RULES), steps
    for slow, fast in ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8)):
        assert sum(steps[slow]) > sum(steps[fast]), steps


def test_several_steps_and_several_tokens_a_step_both_occur(tmp_path: Path) -> None:
    """Guards the tests above: a threshold that never decides would make them vacuous."""
    directory = build_checkpoint(tmp_path, "plain", seed=0)
    requests = random_requests(12, seed=0)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    steps = [step for answer in run(engine, requests).values() for step in answer.steps]
    assert min(steps) < 8
    assert max(steps) > 2


@pytest.mark.parametrize("axis", some(["shifted", "plain", "absolute_shifted"], every=2))
def test_preempted_and_resumed_equals_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    requests = random_requests(8, seed=3)
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)


@pytest.mark.parametrize("axis", ["plain", "shifted", "first_token_autoregressive"])
def test_sampled_rows_equal_oracle_in_any_batch_and_after_a_preemption(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    requests = [
        msgspec.structs.replace(
            request,
            params=DecodingParams(
                temperature=(0.0, 0.4, 1.0, 1.7)[index % 4], seed=index - 4, confidence_threshold=0.2
            ),
        )
        for index, request in enumerate(random_requests(8, seed=3))
    ]
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)
    greedy = [msgspec.structs.replace(each, params=DecodingParams(confidence_threshold=0.2)) for each in requests]
    cold = run(engine, greedy)
    assert sum(cold[each.request_id].token_ids != answers[each.request_id].token_ids for each in requests) >= 4


def test_larger_max_tokens_starts_with_the_same_tokens(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=1)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    prompt = [5, 9, 2, 40]
    long = run(engine, [GenerateRequest(request_id="a", prompt_ids=prompt, max_tokens=40, ignore_eos=True)])["a"]
    for wanted in (1, 7, 8, 9, 21):
        request = GenerateRequest(request_id="b", prompt_ids=prompt, max_tokens=wanted, ignore_eos=True)
        short = run(engine, [request])["b"]
        assert short.token_ids == long.token_ids[:wanted]
        assert short.finish_reason == "length"


def test_mask_id_in_a_prompt_is_never_denoised(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "absolute", seed=2)
    request = GenerateRequest(request_id="a", prompt_ids=[1, MASK, 3, MASK, 5], max_tokens=9, ignore_eos=True)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    answer = run(engine, [request])["a"]
    assert answer.token_ids == oracle_answer(directory, request).token_ids
    assert len(answer.token_ids) == 9
    assert MASK not in answer.token_ids
    assert max(answer.token_ids) < VOCAB


# Two summation orders in fp32 may settle a decision closer than this either way. A confidence near 1 is exact to a
# small part of what it lacks of 1, and the student decides there.
FLOAT_NOISE = 1e-6


@pytest.mark.parametrize("part", some(range(4), every=4))
def test_the_bundled_student_equals_the_oracle_alone_and_in_a_batch_of_32(part: int) -> None:
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    rng = random.Random(5)
    problems = draw_problems("words", 24, seed=11) + draw_problems("functions", 8, seed=11)
    rng.shuffle(problems)
    requests = [
        GenerateRequest(
            request_id=str(index),
            prompt_ids=tokenizer.encode(problem.prompt, add_special_tokens=False),
            max_tokens=rng.choice((70, 100, 128)),
        )
        for index, problem in enumerate(problems)
    ]
    engine = Engine(EngineOptions(model=str(BUNDLED_STUDENT), max_num_seqs=32))
    together = run(engine, requests)
    staggered = run(engine, requests, join_every=1)
    compared = 0
    for index, request in enumerate(requests[part::4]):
        truth = oracle_answer(BUNDLED_STUDENT, request)
        if truth.margin < FLOAT_NOISE:
            continue
        compared += 1
        answers = [together[request.request_id], staggered[request.request_id]]
        if index < 2:
            answers.append(run(engine, [request])[request.request_id])
        for answer in answers:
            assert answer.token_ids == truth.token_ids, (request, truth.margin)
            assert (answer.finish_reason, answer.steps) == (truth.finish_reason, truth.steps)
    assert compared >= 7
    assert max(len(answer.steps) for answer in together.values()) >= 3  # Several blocks.
