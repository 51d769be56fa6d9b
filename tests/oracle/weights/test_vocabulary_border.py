"""Ids at the border of the vocabulary, and mask tokens inside of it, at its end and past it, wherever ids are used."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cdlm.model.config import CheckpointError
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError, RequestError
from cdlm.scheduler.messages import GenerateRequest, ScoreRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import assert_equal_to_oracle, run
from tests.support.models import hf_block_checkpoints
from tests.support.models.checkpoints import EOS, VOCAB, build_checkpoint
from tests.support.models.grammars import MASK as JSON_MASK
from tests.support.models.grammars import SCHEMAS, build_json_checkpoint, json_grammar
from tests.support.oracle.edits import OracleEdits, edit

LAST = VOCAB - 1
EDITS = (
    DecodingParams(frequency_penalty=1.5),
    DecodingParams(presence_penalty=2.0, repetition_penalty=1.4),
    DecodingParams(repetition_penalty=0.7, frequency_penalty=-0.5),
    DecodingParams(logit_bias={1: 2.0, LAST - 1: 2.5, EOS - 1: -100.0}),
    DecodingParams(min_tokens=7, logit_bias={EOS: 6.0}, presence_penalty=-1.0),
    DecodingParams(),
)


def edited(count: int, ids: list[int], seed: int, **fields: Any) -> list[GenerateRequest]:
    """Requests with prompts of ``ids`` alone, and all edits in turn."""
    rng = random.Random(seed)
    return [
        GenerateRequest(
            request_id=str(index), prompt_ids=rng.choices(ids, k=rng.randint(1, 20)), max_tokens=rng.randint(8, 30),
            params=EDITS[index % len(EDITS)], logprobs=index % 3, **fields,
        )
        for index in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("mask", [0, 20, LAST])
@pytest.mark.parametrize("axis", ["plain", "absolute_shifted"])
def test_edits_equal_the_oracle_wherever_the_mask_lies(tmp_path: Path, axis: str, mask: int) -> None:
    directory = build_checkpoint(tmp_path, axis, seed=3, mask_token_id=mask)
    requests = edited(12, [token for token in (0, 1, 30, LAST - 1, LAST) if token != mask], seed=mask)
    engine = Engine(EngineOptions(model=str(directory), page_size=4))
    assert_equal_to_oracle(directory, requests, run(engine, requests, join_every=2))


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_edits_of_autoregressive_checkpoints_equal_a_loop_over_transformers(tmp_path: Path, model_type: str) -> None:
    reference = hf_block_checkpoints.build(tmp_path, model_type, seed=5)
    last, eos = hf_block_checkpoints.VOCAB - 1, hf_block_checkpoints.EOS
    engine = Engine(EngineOptions(model=str(tmp_path), page_size=4, max_prefill_tokens=8, max_num_batched_tokens=64))
    assert engine.describe().mask_token_id == last + 1
    requests = [
        msgspec.structs.replace(request, params=request.params.model_copy(update={"logit_bias": bias}))
        for request, bias in zip(
            edited(12, [0, 1, 50, last], seed=7),
            3 * [{}, {0: 3.0}, {last: 3.0}, {last: -100.0, 0: -100.0}],
            strict=True,
        )
    ]
    answers = run(engine, requests, join_every=2)
    for request in requests:
        params, prompt, written = request.params, list(request.prompt_ids), []
        edits = OracleEdits(
            params.presence_penalty, params.frequency_penalty, params.repetition_penalty, params.logit_bias,
            params.min_tokens,
        )  # fmt: skip
        while len(written) < request.max_tokens and eos not in written:
            with torch.no_grad():
                logits = reference(torch.tensor([prompt + written])).logits[0, -1]
            written.append(int(edit(logits, edits, prompt, written, len(written), (eos,)).argmax()))
        answer = answers[request.request_id]
        assert answer.token_ids == [token for token in written if token != eos]
        assert [entry.token_id for entry in answer.logprobs] == written
    tokens = {token for answer in answers.values() for token in answer.token_ids}
    assert {0, last} <= tokens  # Guards the comparison.


@pytest.mark.parametrize("axis", ["plain", "autoregressive", "autoregressive_without_mask"])
def test_ids_at_the_border_are_taken_and_ids_past_it_refused(tmp_path: Path, axis: str) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, axis)), page_size=4))
    mask = engine.manifest.mask_token_id
    possible = [token for token in (0, LAST) if token != mask]
    for token in possible:
        params = DecodingParams(logit_bias={token: 100.0})
        request = GenerateRequest(request_id="a", prompt_ids=[token], max_tokens=9, params=params)
        assert run(engine, [request])["a"].token_ids == [token] * 9
        stopped = msgspec.structs.replace(
            request, stop_token_ids=[token], params=params.model_copy(update={"min_tokens": 3})
        )
        answer = run(engine, [stopped])["a"]
        assert (len(answer.token_ids), answer.finish_reason) == (3, "stop")
        assert token not in answer.token_ids
        pinned = msgspec.structs.replace(request, pinned=[token] * 20)
        assert run(engine, [pinned])["a"].token_ids == [token] * 9
        engine.add(ScoreRequest(request_id="s", prompt_ids=[token] * 9, logprobs=1))
        outputs = [output for _ in range(50) if engine.busy for output in engine.step().outputs]
        assert [output.error for output in outputs] == [None]
    refused: list[tuple[str, dict[str, Any]]] = [
        (field, value)
        for token in {-1, mask, VOCAB, VOCAB + 1}
        for field, value in (
            ("logit_bias", {"params": DecodingParams.model_construct(logit_bias={token: 1.0})}),
            ("pinned", {"pinned": [token]}),
        )
    ]
    refused += [("prompt", {"prompt_ids": [1, token]}) for token in (-1, VOCAB)]
    refused += [("stop_token_ids", {"stop_token_ids": [3, -1]})]
    for field, fields in refused:
        with pytest.raises(RequestError, match=field):
            engine.add(GenerateRequest(**{"request_id": "a", "prompt_ids": [1], "max_tokens": 8, **fields}))
    assert not engine.busy


def test_guidance_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    engine = Engine(EngineOptions(model=str(build_checkpoint(tmp_path, "autoregressive_without_mask")), page_size=4))
    params = DecodingParams(guidance_scale=1.0)
    with pytest.raises(RequestError, match="guidance_scale: the model has no mask token"):
        engine.add(GenerateRequest(request_id="a", prompt_ids=[1], max_tokens=8, params=params))
    assert not engine.busy


@pytest.mark.parametrize("stop", [[], [JSON_MASK], [10_000]])
def test_a_grammar_needs_an_end_token_that_can_be_written(tmp_path: Path, stop: list[int]) -> None:
    engine = Engine(EngineOptions(model=str(build_json_checkpoint(tmp_path)), page_size=4))
    grammar = json_grammar(SCHEMAS["choice"])
    request = GenerateRequest(
        request_id="a", prompt_ids=[40], max_tokens=40, grammar=grammar, ignore_eos=True, stop_token_ids=stop
    )
    with pytest.raises(RequestError, match="stop token that the model can write"):
        engine.add(request)
    # Beside one that can be, the others end nothing.
    also = msgspec.structs.replace(request, ignore_eos=False)
    alone = msgspec.structs.replace(request, ignore_eos=False, stop_token_ids=[])
    assert run(engine, [also])["a"].token_ids == run(engine, [alone])["a"].token_ids


@pytest.mark.parametrize(("axis", "mask"), [("plain", VOCAB), ("plain", -1), ("autoregressive", -1), ("shifted", 9999)])
def test_a_mask_that_is_no_token_is_found_at_the_start(tmp_path: Path, axis: str, mask: int) -> None:
    directory = build_checkpoint(tmp_path, axis, mask_token_id=mask)
    with pytest.raises(CheckpointError, match=f"mask_token_id {mask} is not in the vocabulary of {VOCAB} tokens"):
        load_checkpoint(directory)
    with pytest.raises(EngineStartError, match="mask_token_id"):
        Engine(EngineOptions(model=str(directory)))


def test_longer_blocks_of_a_checkpoint_without_a_mask_are_refused(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path, "autoregressive_without_mask")
    with pytest.raises(CheckpointError, match="mask_token_id 64 is not in the vocabulary"):
        load_checkpoint(directory, block_length=4)
