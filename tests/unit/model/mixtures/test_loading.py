"""Checkpoints with experts: loaded once, refused by tensor, saved and loaded back; adapters, and what cannot be had."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdlm.cli.doctor.outlook import outlook
from cdlm.model.backbones import BACKBONES
from cdlm.model.config import CheckpointError
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions
from tests.support.models.hf_references import STD, logits
from tests.support.models.mixtures import build_llada2, build_sdar_moe

IDS, SEES = torch.arange(12), torch.ones(12, 12, dtype=torch.bool).tril()


def changed(path: Path, **tensors: torch.Tensor | None) -> None:
    stored = load_file(path / "model.safetensors") | tensors
    save_file({name: each for name, each in stored.items() if each is not None}, path / "model.safetensors")


EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
JOINED = "model.layers.0.attention.query_key_value.weight"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (EXPERT, None, "missing tensors: layers.1.mlp.experts.3.up_proj.weight"),
        (EXPERT, torch.zeros(25, 32), r"experts\.3\.up_proj\.weight' has shape \(25, 32\), expected \(24, 32\)"),
        (EXPERT.replace(".3.", ".16."), torch.zeros(24, 32), r"experts\.16\..*' is not part of this architecture"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", torch.zeros(24, 32), "is not part of this architecture"),
        (
            JOINED,
            None,
            r"missing tensors: layers\.0\.self_attn\.k_proj\.weight, layers\.0\.self_attn\.q_proj\.weight, ",
        ),
        (JOINED, torch.zeros(96, 32), r"query_key_value\.weight' has shape \(96, 32\), expected \(128, 32\)"),
        ("model.layers.1.mlp.gate.expert_bias", None, r"missing tensors: layers\.1\.mlp\.router\.expert_bias"),
        ("model.layers.1.mlp.gate.weight", torch.zeros(16, 32, dtype=torch.int8), "expected a float type"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, value: torch.Tensor | None, message: str) -> None:
    build_llada2(tmp_path)
    changed(tmp_path, **{name: value})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@torch.no_grad()
def test_in_bf16_the_router_keeps_what_is_stored(tmp_path: Path) -> None:
    build_llada2(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    transformer = load_checkpoint(tmp_path, dtype=torch.bfloat16).transformer
    parameters = dict(transformer.named_parameters())
    for name, found in (("weight", "router.weight"), ("expert_bias", "router.expert_bias")):
        assert parameters[f"layers.1.mlp.{found}"].equal(stored[f"model.layers.1.mlp.gate.{name}"])
    assert {each.dtype for name, each in parameters.items() if ".router." not in name} == {torch.bfloat16}
    assert transformer.memory("layers.2.mlp.experts.5.up_proj.weight").equal(
        stored["model.layers.2.mlp.experts.5.up_proj.weight"].bfloat16()
    )


@torch.no_grad()
def test_saved_in_the_own_format_and_loaded_back(tmp_path: Path) -> None:
    build_llada2(tmp_path / "published", std=STD)
    before = load_checkpoint(tmp_path / "published")
    save_checkpoint(tmp_path / "own", before.transformer, before.manifest)
    after = load_checkpoint(tmp_path / "own")
    assert asdict(after.transformer.config) == asdict(before.transformer.config)
    assert after.manifest == before.manifest
    assert logits(after.transformer, IDS, SEES).equal(logits(before.transformer, IDS, SEES))
    path = tmp_path / "own" / "config.json"
    config = json.loads(path.read_text())
    config["transformer"]["mixture"]["heads"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unknown keys in 'mixture': heads"):
        load_checkpoint(tmp_path / "own")


def random_adapter(directory: Path, name: str, *modules: str, rows: int = 128) -> Path:
    """For matrices [rows, 32]."""
    generator = torch.Generator().manual_seed(1)
    lora = {
        module: (torch.randn(2, 32, generator=generator), torch.randn(rows, 2, generator=generator) * 0.1)
        for module in modules
    }
    write_adapter(
        directory, lora, backbone=BACKBONES[name], r=2, alpha=4, base="base", decoding=AdapterDecoding(8, 0.5, None)
    )
    return directory


@torch.no_grad()
def test_an_adapter_of_the_joined_projections(tmp_path: Path) -> None:
    plain = build_llada2(tmp_path / "base", std=STD)
    whole = "layers.0.self_attn.q_proj+k_proj+v_proj"
    adapter = random_adapter(tmp_path / "adapter", "llada2_moe", whole)
    stored = load_file(adapter / "adapter_model.safetensors")
    down, up = (stored[f"base_model.model.{JOINED[:-7]}.lora_{half}.weight"] for half in "AB")
    plain.tensors[JOINED] = plain.tensors[JOINED] + 2 * up @ down
    found = logits(load_checkpoint(tmp_path / "base", adapter=adapter).transformer, IDS, SEES)
    torch.testing.assert_close(found, plain.logits(IDS, SEES), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"q_proj' is a part of 'model\.layers\.0\.attention\.query_key_value'"):
        random_adapter(tmp_path / "part", "llada2_moe", "layers.0.self_attn.q_proj")
    narrow = random_adapter(tmp_path / "narrow", "llada2_moe", whole, rows=64)
    with pytest.raises(CheckpointError, match=r"an update of shape \(64, 32\), the base's weight has \(128, 32\)"):
        load_checkpoint(tmp_path / "base", adapter=narrow)


def test_adapters_of_experts_are_refused_by_module(tmp_path: Path) -> None:
    build_sdar_moe(tmp_path / "base")
    adapter = random_adapter(tmp_path / "adapter", "sdar_moe", "layers.0.mlp.experts.3.up_proj", rows=24)
    with pytest.raises(CheckpointError, match=r"module 'model\.layers\.0\.mlp\.experts\.3\.up_proj' is not a linear"):
        load_checkpoint(tmp_path / "base", adapter=adapter)


def test_quantized_experts_are_refused(tmp_path: Path) -> None:
    build_sdar_moe(tmp_path)
    options: Any = EngineOptions(model=str(tmp_path), quantization="int8")
    message = "quantization int8 has no products for the 12 experts of a layer.*; use none, with dtype bfloat16"
    with pytest.raises(EngineStartError, match=message):
        Engine(options)
    with pytest.raises(EngineStartError, match=message):
        outlook(options)
