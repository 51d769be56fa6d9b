"""Penalties, biases, bans and log-probabilities: the engine equals the slow decoder in mixed batches, on every axis."""

from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import RequestError
from cdlm.scheduler.messages import EngineInput, GenerateRequest, decoder
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import (
    assert_equal_to_oracle,
    engine_with_few_pages,
    oracle_answer,
    random_requests,
    run,
)
from tests.support.models.checkpoints import EOS, MASK, OTHER_HALF, VOCAB, axes, build_checkpoint

EDITS: tuple[DecodingParams, ...] = (
    DecodingParams(presence_penalty=2.0),
    DecodingParams(frequency_penalty=1.5, confidence_threshold=0.2),
    DecodingParams(),
    DecodingParams(repetition_penalty=1.7),
    DecodingParams(presence_penalty=-1.0, frequency_penalty=-0.5, repetition_penalty=0.8),
    DecodingParams(logit_bias=dict.fromkeys(range(0, VOCAB - 2, 3), -100.0) | {EOS: 4.0, 5: 2.5}),
    DecodingParams(min_tokens=11, logit_bias={EOS: 6.0}, confidence_threshold=0.1),
    DecodingParams(
        presence_penalty=0.5, frequency_penalty=0.7, repetition_penalty=1.2, logit_bias={EOS: 3.0}, min_tokens=3
    ),
)


def edited_requests(count: int, seed: int) -> list[GenerateRequest]:
    requests = []
    for index, request in enumerate(random_requests(count, seed)):
        params = EDITS[index % len(EDITS)]
        longer = max(request.max_tokens, params.min_tokens)
        requests.append(
            msgspec.structs.replace(request, params=params, max_tokens=longer, ignore_eos=index // len(EDITS) % 2 == 1)
        )
    return requests


@axes(sample=OTHER_HALF)
def test_edited_rows_of_a_mixed_batch_equal_oracle(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=6)
    requests = edited_requests(16, seed=6)
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


def test_edits_survive_a_preemption(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "absolute_shifted", seed=3, max_model_len=96)
    requests = [msgspec.structs.replace(request, ignore_eos=True) for request in edited_requests(8, seed=3)]
    engine = engine_with_few_pages(directory)
    answers = run(engine, requests)
    assert engine.scheduler.preemptions > 0
    assert_equal_to_oracle(directory, requests, answers)


def test_every_edit_changes_the_answer(tmp_path: Path) -> None:
    """Guards the tests above: edits that change nothing would make them vacuous."""
    directory = build_checkpoint(tmp_path, "plain", seed=6)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    fields = (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 1.7},
        {"logit_bias": {5: 100.0}},
    )
    prompt = [5, 9, 2, 30, 31]

    def answer(params: DecodingParams) -> list[int]:
        request = GenerateRequest(request_id="a", prompt_ids=prompt, max_tokens=40, params=params, ignore_eos=True)
        return run(engine, [request])["a"].token_ids

    plain = answer(DecodingParams())
    answers = [answer(DecodingParams(**edit)) for edit in fields]
    assert all(found != plain for found in answers)
    assert answers[-1] == [5] * 40


def test_a_banned_token_is_never_written_and_stops_wait_for_min_tokens(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=1)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    fields = {"prompt_ids": [5, 9, 2], "max_tokens": 40}
    plain = run(engine, [GenerateRequest(request_id="a", ignore_eos=True, **fields)])["a"].token_ids
    bans = dict.fromkeys(set(plain), -100.0)
    for sampled in (0.0, 2.0):
        params = DecodingParams(logit_bias=bans, temperature=sampled)
        banned = run(engine, [GenerateRequest(request_id="a", ignore_eos=True, params=params, **fields)])["a"]
        assert not set(banned.token_ids) & set(plain)
    for least in (0, 7, 40):
        # The end token is all but forced: only the ban keeps it away.
        params = DecodingParams(logit_bias={EOS: 100.0}, min_tokens=least)
        answer = run(engine, [GenerateRequest(request_id="a", params=params, **fields)])["a"]
        assert (len(answer.token_ids), answer.finish_reason) == (least, "length" if least == 40 else "stop")
    params = DecodingParams(logit_bias={7: 100.0}, min_tokens=5)
    answer = run(engine, [GenerateRequest(request_id="a", params=params, stop_token_ids=[7], **fields)])["a"]
    assert (len(answer.token_ids), answer.finish_reason) == (5, "stop")


SOME_AXES = ("plain", "shifted", "absolute_shifted", "first_token_autoregressive", "autoregressive")


@axes(*SOME_AXES)
def test_logprobs_are_those_of_the_step_that_finalized_the_token(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=8)
    requests = [
        msgspec.structs.replace(request, logprobs=(None, 0, 3, 20)[index % 4])
        for index, request in enumerate(edited_requests(16, seed=8))
    ]
    engine = Engine(EngineOptions(model=str(directory), max_num_seqs=32, page_size=4))
    answers = run(engine, requests, join_every=2)
    compared = 0
    for request in requests:
        truth, entries = oracle_answer(directory, request), answers[request.request_id].logprobs
        if request.logprobs is None:
            assert entries == []
            continue
        assert [entry.token_id for entry in entries][: len(truth.token_ids)] == truth.token_ids
        assert len(entries) == len(truth.token_ids) + (truth.finish_reason == "stop")
        for entry, (scores, step) in zip(entries, truth.scores, strict=True):
            assert entry.step == step
            assert entry.logprob == pytest.approx(float(scores[entry.token_id]), abs=1e-4)
            best = scores.topk(request.logprobs)
            assert entry.top_logprobs == pytest.approx(best.values.tolist(), abs=1e-4)
            assert [float(scores[token]) for token in entry.top_ids] == pytest.approx(best.values.tolist(), abs=1e-4)
            # One number, not two that are nearly equal.
            assert dict(zip(entry.top_ids, entry.top_logprobs, strict=True)).get(entry.token_id, entry.logprob) == (
                entry.logprob
            )
            compared += 1
    assert compared > 100


def test_logprobs_change_nothing_else(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    requests = edited_requests(8, seed=2)
    plain = run(engine, requests)
    asked = run(engine, [msgspec.structs.replace(request, logprobs=5) for request in requests])
    assert {name: answer.token_ids for name, answer in plain.items()} == {
        name: answer.token_ids for name, answer in asked.items()
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"params": DecodingParams(logit_bias={VOCAB: 1.0})}, "logit_bias"),
        ({"params": DecodingParams(logit_bias={MASK: 1.0})}, "logit_bias"),
        ({"params": DecodingParams(logit_bias=dict.fromkeys(range(MASK), -100.0))}, "leaves no token"),
        ({"params": DecodingParams(logit_bias=dict.fromkeys(range(EOS), -100.0), min_tokens=1)}, "leaves no token"),
        ({"params": DecodingParams(min_tokens=9)}, r"min_tokens \(9\) is more than the 8 tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_impossible_edits_are_refused(tmp_path: Path, fields: dict, message: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path)), page_size=4))
    with pytest.raises(RequestError, match=message):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, **fields))
    assert not engine.busy


@pytest.mark.parametrize(
    "params",
    [{"repetition_penalty": 0.0}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {5: 100.5}}, {"guidance_scale": -0.1}],
)
def test_values_out_of_range_are_no_parameters(params: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(params))):
        DecodingParams(**params)
    [(name, value)] = params.items()
    with pytest.raises(msgspec.ValidationError, match=name):
        decoder(EngineInput).decode(
            msgspec.msgpack.encode(
                {"type": "generate", "request_id": "a", "prompt_ids": [1], "max_tokens": 1, "params": {name: value}}
            )
        )
