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
from tests.support.engines import assert_equal_to_oracle, engine_with_few_pages, random_requests, run
from tests.support.models.checkpoints import EOS, MASK, ONE_HALF, OTHER_HALF, VOCAB, axes, build_checkpoint

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


@axes(sample=ONE_HALF)
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


def with_words_of(request: GenerateRequest, written: list[int], rng: random.Random) -> GenerateRequest:
    """The request, of whose answer some sequences of one to four tokens may not be written."""
    words = []
    for size in (2, 2, 2, 3, 4, 1):
        start = rng.randrange(max(1, len(written) - size))
        words.append(written[start : start + size])
    words = [word for word in words if word]
    return msgspec.structs.replace(request, params=request.params.model_copy(update={"bad_words": words}))


def holds(line: list[int], word: list[int]) -> bool:
    return any(line[start : start + len(word)] == word for start in range(len(line)))


@axes(sample=OTHER_HALF)
def test_rows_that_may_not_write_some_words_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    rng = random.Random(6)
    requests = asking(21, 6, lambda _: {}, axis)
    plain = run(engine, requests)
    requests = [with_words_of(request, plain[request.request_id].token_ids, rng) for request in requests]
    answers = run(engine, requests, join_every=2)
    assert_equal_to_oracle(directory, requests, answers)
    changed = 0
    for request in requests:
        answer = answers[request.request_id].token_ids
        changed += answer != plain[request.request_id].token_ids
        assert not any(holds(answer, word) for word in request.params.bad_words)
    assert changed > 10


def test_tokens_of_one_step_do_not_make_a_word_together(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=6)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    params = DecodingParams(confidence_threshold=1e-9)
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=40, params=params, ignore_eos=True)
    plain = run(engine, [request])["a"]
    assert set(plain.steps) == {1}
    words = [plain.token_ids[start : start + 2] for start in range(39)]
    request = msgspec.structs.replace(request, params=params.model_copy(update={"bad_words": words}))
    answer = run(engine, [request])["a"]
    assert_equal_to_oracle(directory, [request], {"a": answer})
    assert not any(holds(answer.token_ids, word) for word in words)
    assert max(answer.steps) > 1


def test_what_a_prompt_ends_with_begins_no_word(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=6)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    request = GenerateRequest(request_id="a", prompt_ids=[5, 9, 2], max_tokens=12)
    plain = run(engine, [request])["a"].token_ids
    words = [[2, plain[0]], [9, 2, plain[0]]]
    request = msgspec.structs.replace(request, params=DecodingParams(bad_words=words))
    assert run(engine, [request])["a"].token_ids == plain


@pytest.mark.parametrize("axis", ["absolute_shifted", "plain"])
def test_words_survive_a_preemption(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, max_model_len=96)
    rng = random.Random(3)
    requests = [msgspec.structs.replace(each, ignore_eos=True) for each in asking(8, 3, lambda _: {}, axis)]
    plain = run(Engine(EngineOptions(model=str(directory), page_size=4)), requests)
    requests = [with_words_of(each, plain[each.request_id].token_ids, rng) for each in requests]
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)


@pytest.mark.parametrize("axis", ["plain", "shifted"])
def test_words_beside_a_suffix_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=4)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    rng = random.Random(4)
    requests = [
        msgspec.structs.replace(request, pinned=[7, 8, 7, 8], ignore_eos=True)
        for request in asking(8, 4, lambda _: {}, axis)
    ]
    plain = run(engine, requests)
    requests = [with_words_of(each, plain[each.request_id].token_ids, rng) for each in requests]
    assert_equal_to_oracle(directory, requests, run(engine, requests))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_token_ids": [VOCAB]}, "allowed_token_ids: token ids must be below"),
        ({"allowed_token_ids": [MASK]}, "allowed_token_ids: token id .* is the mask token"),
        ({"allowed_token_ids": [3], "logit_bias": {3: -100.0}}, "allowed_token_ids leaves no token"),
        ({"allowed_token_ids": [EOS], "min_tokens": 1}, "allowed_token_ids leaves no token"),
        ({"bad_words": [[3, VOCAB]]}, "bad_words: token ids must be below"),
        ({"bad_words": [[3, MASK]]}, "bad_words: token id .* is the mask token"),
        ({"bad_words": [[3, 5], [5, 3], [3, 3]], "allowed_token_ids": [3]}, "bad_words may leave no token"),
        ({"bad_words": [[token] for token in range(MASK)]}, "bad_words may leave no token"),
        ({"bad_words": ["three"]}, "bad_words: 'three' is no list of token ids"),
    ],
)
def test_impossible_bans_are_refused(tmp_path: Path, fields: dict, message: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match=message):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, params=DecodingParams(**fields)))
    assert not engine.busy
