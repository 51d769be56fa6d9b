"""Nemotron-Labs-Diffusion: logits are those of transformers' Ministral 3, answers those of a plain decoder over it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.row import RowWork
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.drafts import count_accepted, drafting_engine
from tests.support.engines import Answer, engine_with_few_pages, run
from tests.support.matrix import some
from tests.support.models.hf_references import STD, logits
from tests.support.models.nemotron import (
    EOS,
    MASK,
    VOCAB,
    attention,
    build,
    build_linear_spec_lora,
    plain_answer,
    plain_drafts,
)
from tests.support.oracle.decoder import decode


@torch.no_grad()
@pytest.mark.parametrize("start", [40, 21, 0])
def test_logits_equal_transformers(tmp_path: Path, start: int) -> None:
    """Causal, with a block that sees all of itself, and all seeing all; most positions have scaled queries."""
    for seed in range(5):
        reference = build(tmp_path / str(seed), seed, STD)
        ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(seed))
        mask = attention(40, start)
        found = logits(load_checkpoint(tmp_path / str(seed)).transformer, ids, mask[0, 0] == 0)
        expected = reference(ids[None], attention_mask=mask).logits[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def make_requests(lengths: range, seed: int) -> list[GenerateRequest]:
    generator = torch.Generator().manual_seed(seed)
    return [
        GenerateRequest(
            request_id=str(length),
            prompt_ids=torch.randint(12, MASK, (length,), generator=generator).tolist(),
            max_tokens=2 + (5 * length + seed) % 40,
            params=DecodingParams(confidence_threshold=(None, 0.25)[length % 2]),
        )
        for length in lengths
    ]


Plain = dict[str, tuple[list[int], list[int]]]


def plain_answers(model: Any, requests: list[GenerateRequest], block: int) -> Plain:
    """What the plain decoder writes: tokens, and the steps of each whole block."""
    return {
        request.request_id: plain_answer(
            model, list(request.prompt_ids), request.max_tokens, block, request.params.confidence_threshold or 0.9
        )
        for request in requests
    }


def assert_plain(plain: Plain, answers: dict[str, Answer]) -> None:
    """Compares tokens and steps with those of the plain decoder."""
    for name, (tokens, steps) in plain.items():
        assert answers[name].token_ids == tokens, name
        assert answers[name].steps[: len(steps)] == steps, name


@pytest.mark.parametrize("seed", some(range(5), every=5))
@pytest.mark.parametrize(("block", "lengths"), [(32, range(1, 34)), (4, range(14, 20))])
def test_prompts_of_every_length_modulo_the_block(tmp_path: Path, block: int, lengths: range, seed: int) -> None:
    model = build(tmp_path, seed, block_size=block)
    requests = make_requests(lengths, seed)
    engine = Engine(EngineOptions(model=str(tmp_path), max_num_seqs=8, page_size=4))
    plain = plain_answers(model, requests, block)
    assert_plain(plain, run(engine, requests, join_every=2))
    # Guards the comparison: blocks take several steps, and some steps finalize more than one token.
    assert 1 < min(step for _, steps in plain.values() for step in steps) < block
    # Once more, from the prefix cache.
    assert_plain(plain, run(engine, requests))


@pytest.mark.parametrize("seed", [3, 4])
def test_requests_that_lose_their_pages(tmp_path: Path, seed: int) -> None:
    model = build(tmp_path, seed, block_size=8, max_position_embeddings=96)
    engine = engine_with_few_pages(tmp_path)
    requests = make_requests(range(20, 32), seed)
    assert_plain(plain_answers(model, requests, 8), run(engine, requests))
    assert engine.scheduler.preemptions > 0


@pytest.mark.parametrize("page", [1, 3, 4])
def test_a_conversation_continues_from_any_token(tmp_path: Path, page: int) -> None:
    model = build(tmp_path, seed=1, block_size=8)
    engine = Engine(EngineOptions(model=str(tmp_path), page_size=page))
    [first] = make_requests(range(21, 22), seed=1)
    first = GenerateRequest(request_id="a", prompt_ids=first.prompt_ids, max_tokens=24, ignore_eos=True)
    answer = run(engine, [first])["a"].token_ids
    for kept in (1, 7, 11, 16, 22):
        prompt = [*first.prompt_ids, *answer[:kept], 40 + kept, 41, 42]
        request = GenerateRequest(request_id="b", prompt_ids=prompt, max_tokens=13)
        engine.add(request)
        outputs = []
        while engine.busy:
            outputs += engine.step().outputs
            engine.check()
        # The last block of an answer is never committed.
        assert outputs[0].cached_tokens == (21 + min(kept, 16)) // page * page
        assert_plain(plain_answers(model, [request], 8), {"b": Answer(outputs)})


@pytest.mark.whole
def test_kernels(tmp_path: Path) -> None:
    model = build(tmp_path, seed=2, block_size=4, num_hidden_layers=1)
    requests = make_requests(range(15, 18), seed=2)
    options = EngineOptions(model=str(tmp_path), max_num_seqs=3, page_size=4, attention_backend="triton")
    assert_plain(plain_answers(model, requests, 4), run(Engine(options), requests, join_every=2))


@pytest.mark.parametrize("seed", range(2))
def test_the_slow_decoder_has_the_same_answers(tmp_path: Path, seed: int) -> None:
    model = build(tmp_path, seed, block_size=8)
    loaded = load_checkpoint(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    weights = {
        name.removeprefix("encoder.").replace("diffusion_head", "lm_head"): tensor for name, tensor in stored.items()
    }
    for request in make_requests(range(12, 18), seed):
        truth = decode(
            weights, loaded.transformer.config, loaded.manifest, list(request.prompt_ids), request.max_tokens,
            threshold=request.params.confidence_threshold,
        )  # fmt: skip
        assert_plain(plain_answers(model, [request], 8), {request.request_id: truth})  # type: ignore[dict-item]


def greedy(model: Any, request: GenerateRequest) -> list[int]:
    """What transformers generates, without the end token."""
    ids = torch.tensor([request.prompt_ids])
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens, do_sample=False,
            pad_token_id=0, eos_token_id=EOS, suppress_tokens=[MASK],
        )  # fmt: skip
    return [token for token in out[0, ids.shape[1] :].tolist() if token != EOS]


def test_blocks_of_one_token_decode_as_transformers_does(tmp_path: Path) -> None:
    """The next-token model that the same weights are."""
    model = build(tmp_path, seed=4)
    requests = make_requests(range(1, 20, 3), seed=4)
    engine = Engine(EngineOptions(model=str(tmp_path), block_length=1, max_num_seqs=8, page_size=4))
    answers = run(engine, requests, join_every=2)
    for request in requests:
        assert answers[request.request_id].token_ids == greedy(model, request)


@pytest.mark.parametrize("seed", some(range(5), every=5))
def test_its_draft_adapter_drafts_as_published_and_changes_no_token(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tmp_path / "model", seed)
    adapter = tmp_path / "model" / "linear_spec_lora"
    drafting = build_linear_spec_lora(adapter, model, seed)
    engine = drafting_engine(tmp_path / "model", adapter, block_length=1, max_num_seqs=4, page_size=4)
    assert engine.runner.drafting is not None
    assert engine.runner.drafting.window == 30
    requests = make_requests(range(2, 16, 3), seed)
    truth = {request.request_id: greedy(model, request) for request in requests}
    seen = 0

    def proposed(work: RowWork, accepted: list[int], drafted: list[int]) -> list[int]:
        """Compares what is drafted; every other time, drafts that will agree take its place."""
        nonlocal seen
        (sequence,) = (each for each in engine.scheduler.running if each.row == work.row)
        known = [*sequence.token_ids, *accepted[:-1]]
        assert drafted == (plain_drafts(model, drafting, known, len(drafted)) if drafted else [])
        seen += len(drafted)
        following = (list(sequence.request.prompt_ids) + truth[sequence.request.request_id])[len(known) + 1 :]
        return following[: len(drafted)] if seen % 2 else drafted

    monkeypatch.setattr(engine.runner.drafting.verifier, "propose", proposed)
    counted = count_accepted(engine, monkeypatch)
    answers = run(engine, requests, join_every=2)
    assert {name: answer.token_ids for name, answer in answers.items()} == truth
    assert seen > 50
    assert counted()[2] > 5
