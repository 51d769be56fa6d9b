"""Dream and LLaDA directories load as what transformers computes from the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cdlm.model.backbones import BACKBONES
from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.hf_checkpoints import build_dream, build_llada
from tests.support.models.hf_references import STD, LladaReference, llama, logits, qwen2, random_ids

LENGTH = 40


def reference_logits(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    out: Tensor = model(ids[None], attention_mask=bias[None, None]).logits[0]
    return out


def masks() -> dict[str, Tensor]:
    some = torch.rand(LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    everything = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    return {"full": everything, "causal": everything.tril(), "random": some | torch.eye(LENGTH, dtype=torch.bool)}


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_dream_equals_qwen2_with_the_same_weights(tmp_path: Path, seed: int) -> None:
    directory = build_dream(tmp_path, seed, std=STD)
    transformer = load_checkpoint(directory).transformer
    reference = qwen2(load_file(directory / "model.safetensors"))
    ids = random_ids(seed)
    for name, mask in masks().items():
        torch.testing.assert_close(
            logits(transformer, ids, mask), reference_logits(reference, ids, mask), atol=1e-5, rtol=1e-5, msg=name
        )
    plain = reference(ids[None]).logits[0]  # With its own causal mask.
    torch.testing.assert_close(logits(transformer, ids, masks()["causal"]), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(5))
def test_llada_equals_llama_with_renamed_weights(tmp_path: Path, seed: int) -> None:
    directory = build_llada(tmp_path, seed, std=STD)
    transformer = load_checkpoint(directory).transformer
    tensors = load_file(directory / "model.safetensors")
    reference = llama(tensors)
    ids = random_ids(seed)
    for name, mask in masks().items():
        torch.testing.assert_close(
            logits(transformer, ids, mask), reference_logits(reference, ids, mask), atol=1e-5, rtol=1e-5, msg=name
        )
    by_name = LladaReference()
    by_name.load_state_dict(tensors)
    torch.testing.assert_close(logits(transformer, ids, masks()["full"]), by_name(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tied_heads_and_grouped_keys(tmp_path: Path) -> None:
    ids, mask = random_ids(4), masks()["full"]
    directory = build_dream(tmp_path / "dream", std=STD, tie_word_embeddings=True, num_key_value_heads=1)
    reference = qwen2(load_file(directory / "model.safetensors"), tie_word_embeddings=True, num_key_value_heads=1)
    transformer = load_checkpoint(directory).transformer
    assert transformer.lm_head.weight is transformer.embed_tokens.weight
    torch.testing.assert_close(
        logits(transformer, ids, mask), reference_logits(reference, ids, mask), atol=1e-5, rtol=1e-5
    )
    directory = build_llada(tmp_path / "llada", std=STD, weight_tying=True, n_kv_heads=2)
    tied = llama(load_file(directory / "model.safetensors"), tie_word_embeddings=True, num_key_value_heads=2)
    transformer = load_checkpoint(directory).transformer
    torch.testing.assert_close(logits(transformer, ids, mask), reference_logits(tied, ids, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [build_dream, build_llada])
def test_sharded_weights_are_the_same(tmp_path: Path, build: Any) -> None:
    whole = load_checkpoint(build(tmp_path / "whole", seed=3)).transformer.state_dict()
    directory = build(tmp_path / "sharded", seed=3, shards=3)
    assert not (directory / "model.safetensors").exists()
    sharded = load_checkpoint(directory).transformer.state_dict()
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.mark.parametrize("build", [build_dream, build_llada])
def test_a_tensor_of_another_architecture_is_named(tmp_path: Path, build: Any) -> None:
    directory = build(tmp_path, shards=2)
    index = directory / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values())
    other = build_llada if build is build_dream else build_dream
    other(tmp_path / "other")
    index.write_text(json.dumps({"weight_map": {"a": "foreign.safetensors", **{f: f for f in files}}}))
    (tmp_path / "other" / "model.safetensors").rename(directory / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: tensor '.* is not part of this"):
        load_checkpoint(directory)


@pytest.mark.parametrize(("model_type", "build"), [("Dream", build_dream), ("llada", build_llada)])
def test_module_names_go_both_ways(tmp_path: Path, model_type: str, build: Any) -> None:
    backbone = BACKBONES[model_type]
    stored = {name.rpartition(".")[0] for name in load_file(build(tmp_path) / "model.safetensors")}
    names = {module: backbone.module_name(module) for module in stored}
    assert None not in names.values()
    assert len(set(names.values())) == len(names)
    assert all(backbone.stored_module(name or "") == module for module, name in names.items())


def test_the_two_modules_called_ff_out_are_told_apart() -> None:
    backbone = BACKBONES["llada"]
    assert backbone.module_name("model.transformer.ff_out") == "lm_head"
    assert backbone.module_name("model.transformer.blocks.1.ff_out") == "layers.1.mlp.down_proj"
    assert backbone.module_name("model.transformer.blocks.1.wte") is None
    with pytest.raises(ValueError, match="'layers.0.nothing' has no name"):
        backbone.stored_module("layers.0.nothing")
