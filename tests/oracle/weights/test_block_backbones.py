"""Block-causal and next-token directories compute and decode what transformers and the oracle do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdlm.model.backbones import BACKBONES
from cdlm.model.config import CheckpointError
from cdlm.model.decoding.logits.confidence import confidence_and_best
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.messages import GenerateRequest
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import random_requests, run
from tests.support.matrix import some
from tests.support.models.hf_block_checkpoints import CONFIGS, EOS, VOCAB, build, random_model, write_checkpoint
from tests.support.models.hf_checkpoints import build_dream
from tests.support.models.hf_references import STD, logits
from tests.support.oracle.decoder import OracleAnswer, decode

AUTOREGRESSIVE = ("qwen2", "qwen3", "llama")


def assert_same_logits(directory: Path, reference: Any, seed: int = 0) -> None:
    """Under a causal mask, which is the reference's own."""
    ids = torch.randint(VOCAB, (40,), generator=torch.Generator().manual_seed(seed))
    causal = torch.ones(40, 40, dtype=torch.bool).tril()
    found = logits(load_checkpoint(directory).transformer, ids, causal)
    torch.testing.assert_close(found, reference(ids[None]).logits[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("model_type", CONFIGS)
def test_logits_equal_transformers(tmp_path: Path, model_type: str) -> None:
    for seed in range(5):
        assert_same_logits(tmp_path / str(seed), build(tmp_path / str(seed), model_type, seed, STD), seed)
    tied = build(tmp_path / "tied", model_type, std=STD, tie_word_embeddings=True, num_key_value_heads=1)
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    assert_same_logits(tmp_path / "tied", tied)


@torch.no_grad()
@pytest.mark.parametrize("model_type", AUTOREGRESSIVE)
def test_what_transformers_saves_can_be_loaded(tmp_path: Path, model_type: str) -> None:
    model = random_model(CONFIGS[model_type], std=STD)
    model.save_pretrained(tmp_path)
    assert_same_logits(tmp_path, model)


def oracle_answer(directory: Path, request: GenerateRequest, **changes: Any) -> OracleAnswer:
    checkpoint = load_checkpoint(directory, **changes)
    return decode(
        {name.removeprefix("model."): tensor for name, tensor in load_file(directory / "model.safetensors").items()},
        checkpoint.transformer.config,
        checkpoint.manifest,
        list(request.prompt_ids),
        request.max_tokens,
        threshold=request.params.confidence_threshold,
        ignore_eos=request.ignore_eos,
    )


@pytest.mark.parametrize(
    ("model_type", "keys", "given"),
    [
        ("sdar", {}, None),  # Blocks of 4.
        ("sdar", {"block_size": 8}, None),
        ("sdar", {}, 8),
        ("Fast_dLLM_Qwen", {"bd_size": 8, "tie_word_embeddings": True}, None),
        ("Fast_dLLM_Qwen", {}, None),  # Blocks of 32.
        ("DreamReasoner", {}, None),  # Blocks of 32.
        ("DreamReasoner", {"block_size": 8}, None),
        ("Stable-DiffCoder", {"tie_word_embeddings": True}, None),  # Blocks of 4.
    ],
)
@pytest.mark.parametrize("seed", some(range(3, 8), every=5))
def test_blocks_equal_the_oracle(
    tmp_path: Path, model_type: str, keys: dict[str, Any], given: int | None, seed: int
) -> None:
    build(tmp_path, model_type, seed=seed, **keys)
    engine = Engine(EngineOptions(model=str(tmp_path), block_length=given, max_num_seqs=8, page_size=4))
    requests = random_requests(8, seed=seed)
    answers = run(engine, requests, join_every=2)
    for request in requests:
        truth, answer = oracle_answer(tmp_path, request, block_length=given), answers[request.request_id]
        assert answer.token_ids == truth.token_ids, request
        assert (answer.finish_reason, answer.steps) == (truth.finish_reason, truth.steps), request
    steps = [step for answer in answers.values() for step in answer.steps]
    assert max(len(answer.steps) for answer in answers.values()) > 1
    assert min(steps) < engine.manifest.block_length
    assert max(steps) > 2


def greedy(reference: Any, prompt: list[int], count: int) -> list[int]:
    """Up to, and without, the end token."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
    tokens: list[int] = out[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens[-1] == EOS else tokens


@pytest.mark.parametrize("seed", some(range(6, 11), every=5))
@pytest.mark.parametrize("model_type", AUTOREGRESSIVE)
def test_autoregressive_checkpoints_decode_as_transformers_does(tmp_path: Path, model_type: str, seed: int) -> None:
    reference = random_model(CONFIGS[model_type], seed=seed)
    with torch.no_grad():
        # The largest id is where an engine that takes a mask token for granted would look for it.
        reference.get_output_embeddings().weight[VOCAB - 1] *= 2
    write_checkpoint(tmp_path, CONFIGS[model_type], reference)
    generator = torch.Generator().manual_seed(seed)
    requests = [
        GenerateRequest(
            request_id=str(length),
            prompt_ids=torch.randint(EOS, (length,), generator=generator).tolist(),
            max_tokens=40,
        )
        for length in (1, 2, 7, 16, 33)
    ]
    engine = Engine(EngineOptions(model=str(tmp_path), max_num_seqs=8, page_size=4))
    assert engine.describe().block_length == 1
    answers = run(engine, requests, join_every=3)
    for request in requests:
        expected = greedy(reference, list(request.prompt_ids), 40)
        assert answers[request.request_id].token_ids == expected
        assert answers[request.request_id].finish_reason == ("length" if len(expected) == 40 else "stop")
    if seed != 6:
        return
    # Guards the comparison: with this seed at least both ends and the largest id occur.
    assert {answer.finish_reason for answer in answers.values()} == {"length", "stop"}
    assert VOCAB - 1 in {token for answer in answers.values() for token in answer.token_ids}


def test_an_id_past_the_vocabulary_hides_no_token() -> None:
    before = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    before[0, 6] = 9.0
    after = before.clone()
    confidence, token = confidence_and_best(after, mask_token_id=7)
    assert torch.equal(after, before)
    assert token[0] == 6
    torch.testing.assert_close(confidence, before.softmax(-1).amax(-1))


@pytest.mark.parametrize("model_type", AUTOREGRESSIVE)
def test_longer_blocks_of_an_autoregressive_checkpoint_are_refused(tmp_path: Path, model_type: str) -> None:
    build(tmp_path, model_type)
    with pytest.raises(CheckpointError, match="block_length is 8; an autoregressive checkpoint has no mask token"):
        load_checkpoint(tmp_path, block_length=8)
    with pytest.raises(EngineStartError, match="block_length 1 only"):
        Engine(EngineOptions(model=str(tmp_path), block_length=32))
    assert load_checkpoint(tmp_path, block_length=1).manifest.mask_token_id == VOCAB


@pytest.mark.parametrize("model_type", CONFIGS)
def test_module_names_go_both_ways(tmp_path: Path, model_type: str) -> None:
    build(tmp_path, model_type)
    backbone = BACKBONES[model_type]
    tensors = load_file(tmp_path / "model.safetensors")
    for stored in {name.rpartition(".")[0] for name in tensors}:
        assert backbone.stored_module(backbone.module_name(stored) or "") == stored
    save_file(tensors | {"encoder.layers.0.mlp.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="encoder.layers.0.mlp"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_their_tokenizers_load_without_their_code(
    tmp_path: Path, model_type: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = build_dream(tmp_path) / "tokenizer_config.json"  # Qwen2's files under another class name.
    keys = json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    del keys["auto_map"]
    path.write_text(json.dumps(keys))
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[model_type]))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("hello <|mask|>world")) == "hello <|mask|>world"
    assert not capfd.readouterr().err
    assert not caplog.records
