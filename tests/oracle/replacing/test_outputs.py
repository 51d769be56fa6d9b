"""What comes of rows that replace tokens: finished blocks alone, with the step and the score of each last change."""

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cdlm.model.config import CheckpointError, Manifest
from cdlm.model.decoding.params import DecodingParams
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError, RequestError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.oracle.decoding.test_partial_outputs import outputs_of
from tests.support.engines import Answer, assert_equal_to_oracle, oracle_answer, run
from tests.support.guides import build_guide
from tests.support.models.checkpoints import EOS, build_checkpoint
from tests.support.models.grammars import SCHEMAS, build_json_checkpoint, json_grammar
from tests.support.replacing import replaced, replacing_requests


@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_text_comes_with_finished_blocks_and_the_canvas_says_when_it_is_final(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=2)
    request = GenerateRequest(
        request_id="a", prompt_ids=[5, 9, 2], max_tokens=21, ignore_eos=True, step_map=True,
        params=DecodingParams(edit_threshold=0.1), stream_canvas=True, stream_prefix=True,
    )  # fmt: skip
    outputs = outputs_of(Engine(EngineOptions(model=str(directory), page_size=4)), [request])["a"]
    assert_equal_to_oracle(directory, [request], {"a": whole(outputs)})
    changed = after_the_last_mask = 0
    before: list[int | None] = []
    for output in outputs:
        canvas = output.canvas
        assert canvas is not None
        assert canvas.final == (not output.partial)
        before = before or [None] * len(canvas.token_ids)
        after_the_last_mask += None not in before
        for was, now, step in zip(before, canvas.token_ids, canvas.steps, strict=True):
            changed += was not in (None, now)
            assert was == now or step == canvas.step
            assert (now is None) == (step is None)
        before = canvas.token_ids if output.partial else []
        assert output.token_ids == ([] if output.partial else canvas.token_ids)
        assert output.step_map == ([] if output.partial else canvas.steps)
    assert changed > 3
    assert after_the_last_mask > 3


def whole(outputs: list[Any]) -> Answer:
    """The answer of a stream; its partial outputs have no steps of their own."""
    answer = Answer(outputs)
    answer.steps = [output.denoise_steps for output in outputs if not output.partial]
    return answer


def test_a_stop_token_that_is_replaced_ends_nothing(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=2)
    requests = [
        GenerateRequest(
            request_id=str(index), prompt_ids=[5, index, 2], max_tokens=40, stream_canvas=True, step_map=True,
            params=DecodingParams(edit_threshold=0.05, confidence_threshold=0.1, logit_bias={EOS: bias, 7: bias}),
            stop_token_ids=[7],
        )
        for index, bias in enumerate((2.5, 3.0, 3.5, 4.0, 4.5, 5.0))
    ]  # fmt: skip
    outputs = outputs_of(Engine(EngineOptions(model=str(directory), page_size=4)), requests)
    gone = ends = 0
    for request in requests:
        truth, found = stopping_oracle(directory, request), outputs[request.request_id]
        answer = whole(found)
        assert (answer.token_ids, answer.finish_reason) == (truth.token_ids, truth.finish_reason)
        assert (answer.steps, answer.step_map) == (truth.steps, truth.step_map)
        canvases = [each.canvas for each in found if each.canvas is not None]
        gone += sum(
            was in (EOS, 7) and now not in (EOS, 7)
            for earlier, later in itertools.pairwise(canvases)
            if later.step > earlier.step
            for was, now in zip(earlier.token_ids, later.token_ids, strict=True)
        )
        ends += answer.finish_reason == "stop"
    assert gone > 2
    assert ends > 2


def stopping_oracle(directory: Path, request: GenerateRequest) -> Any:
    """The slow decoder's answer with the request's stop tokens as the checkpoint's."""
    stops = build_checkpoint(directory.parent / "stops", "shifted", seed=2, stop_token_ids=(EOS, 7))
    return oracle_answer(stops, request)


def test_logprobs_are_those_of_the_last_change(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "shifted", seed=8)
    requests = [
        msgspec.structs.replace(request, logprobs=(0, 3, None)[index % 3])
        for index, request in enumerate(replacing_requests(8, 8, DecodingParams(repetition_penalty=1.3)))
    ]
    answers = run(Engine(EngineOptions(model=str(directory), page_size=4)), requests, join_every=2)
    compared = late = 0
    for request in requests:
        truth, entries = oracle_answer(directory, request), answers[request.request_id].logprobs
        if request.logprobs is None:
            continue
        assert [entry.token_id for entry in entries][: len(truth.token_ids)] == truth.token_ids
        for entry, (scores, step) in zip(entries, truth.scores, strict=True):
            assert entry.step == step
            assert entry.logprob == pytest.approx(float(scores[entry.token_id]), abs=1e-4)
            assert entry.top_logprobs == pytest.approx(scores.topk(request.logprobs).values.tolist(), abs=1e-4)
            compared += 1
            late += step > 8  # Blocks have eight tokens: that was after the last mask.
    assert compared > 50
    assert late > 0


def test_metrics_count_the_replaced_tokens_and_all_steps(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "plain", seed=2)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    request = GenerateRequest(
        request_id="a", prompt_ids=[5, 9, 2], max_tokens=40, ignore_eos=True, params=DecodingParams(edit_threshold=0.1)
    )
    truth = oracle_answer(directory, request)
    engine.add(request)
    steps, again, finalized, passes = [], 0, 0, 0
    while engine.busy:
        report = engine.step()
        steps += report.stats.steps_per_block
        again += report.stats.replaced_tokens
        finalized += report.stats.finalized_tokens
        passes += sum(output.forward_passes for output in report.outputs)
    assert (steps, again, finalized) == (truth.steps, truth.replaced, 40)
    assert passes == sum(steps)
    assert again > 3


def test_a_default_gives_way_to_grammars_and_words_and_a_request_is_refused(tmp_path: Path) -> None:
    directory = build_json_checkpoint(tmp_path, "absolute", seed=1)
    plain = Engine(EngineOptions(model=str(directory), page_size=4))
    replacing = Engine(EngineOptions(model=str(directory), page_size=4, edit_threshold=0.05))
    grammar = json_grammar(SCHEMAS["map"])
    ways: list[tuple[dict[str, Any], str]] = [
        ({"grammar": grammar, "stop_token_ids": [7]}, "edit_threshold cannot be combined with grammar"),
        ({"params": {"bad_words": [[90, 91]]}}, "edit_threshold cannot be combined with bad_words of several tokens"),
    ]
    for fields, message in ways:
        own = fields.get("params", {})
        request = GenerateRequest(
            request_id="a", prompt_ids=[40, 50], max_tokens=30, **fields | {"params": DecodingParams(**own)}
        )
        expected, found = (run(engine, [request])["a"] for engine in (plain, replacing))
        assert (found.token_ids, found.steps) == (expected.token_ids, expected.steps)
        named = msgspec.structs.replace(request, params=DecodingParams(edit_threshold=0.9, **own))
        with pytest.raises(RequestError, match=message):
            plain.add(named)
        off = msgspec.structs.replace(request, params=DecodingParams(edit_threshold=1.0, **own))
        assert run(replacing, [off])["a"].token_ids == expected.token_ids
    free = GenerateRequest(request_id="a", prompt_ids=[40, 50], max_tokens=30)
    assert run(plain, [free])["a"].steps != run(replacing, [free])["a"].steps


@pytest.mark.parametrize("axis", ["first_token_autoregressive", "causal_commit", "autoregressive_without_mask"])
def test_where_the_commit_gives_a_blocks_first_token_nothing_can_be_replaced(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis)
    reason = "the first token of a block comes from the block before it, and cannot be replaced"
    with pytest.raises(EngineStartError, match=rf"edit_threshold 0.9: {reason}"):
        Engine(EngineOptions(model=str(directory), edit_threshold=0.9))
    engine = Engine(EngineOptions(model=str(directory), edit_threshold=1.0))
    request = GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, params=DecodingParams(edit_threshold=0.9))
    with pytest.raises(RequestError, match=f"edit_threshold: {reason}"):
        engine.add(request)
    with pytest.raises(CheckpointError, match=f"edit_threshold: {reason}"):
        Manifest(
            block_length=1, confidence_threshold=0.9, mask_token_id=1, stop_token_ids=(), max_model_len=9,
            first_token="autoregressive", edit_threshold=0.9,
        )  # fmt: skip


def test_what_a_guide_model_decides_is_not_replaced(tmp_path: Path) -> None:
    model, guide = build_checkpoint(tmp_path / "model", "absolute"), build_guide(tmp_path / "guide")
    options = EngineOptions(model=str(model), guide_model=str(guide), page_size=4)
    with pytest.raises(EngineStartError, match="edit_threshold 0.5 and decoding guide exclude each other"):
        Engine(options.model_copy(update={"edit_threshold": 0.5}))
    request = GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, params=DecodingParams(edit_threshold=0.9))
    with pytest.raises(RequestError, match="edit_threshold cannot be combined with decoding 'guide'"):
        Engine(options).add(request)


def test_the_requests_of_these_tests_replace_tokens(tmp_path: Path) -> None:
    """Guards the tests that run random requests."""
    directory = build_checkpoint(tmp_path, "shifted", seed=8)
    assert replaced(directory, replacing_requests(8, 8)) > 20
