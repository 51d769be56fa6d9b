"""Adapters mean what PEFT makes of them, in both directions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdlm.model.backbones import BACKBONES
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import causal_mask
from tests.support.models.checkpoints import build_checkpoint
from tests.support.models.hf_checkpoints import build_dream, build_llada
from tests.support.models.hf_references import (
    STD,
    dream_base,
    llada_base,
    logits,
    random_ids,
    random_lora,
    train_with_peft,
)

# PEFT asks transformers for an attribute that it has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

DREAM_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLADA_TARGETS = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]
IDS = random_ids(9)


def dream_logits(transformer: Transformer) -> Tensor:
    return logits(transformer, IDS, causal_mask(len(IDS))[0])


def llada_logits(transformer: Transformer) -> Tensor:
    return logits(transformer, IDS, torch.ones(len(IDS), len(IDS), dtype=torch.bool))


def assert_same(ours: Tensor, theirs: Tensor, base: Tensor) -> None:
    """Equal to PEFT's, and far from the base alone: the adapter does something."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - base).abs().max() > 0.1


VARIANTS: dict[str, dict[str, Any]] = {
    "all": {"target_modules": DREAM_TARGETS},
    "rank-stabilized": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": DREAM_TARGETS,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.\w+_proj": 3},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 32, "down_proj": 5},
    },
    "some layers": {"target_modules": ["v_proj"], "layers_to_transform": [1]},
    "pattern of names": {"target_modules": r".*\.0\.self_attn\.[kv]_proj"},
    "head": {"target_modules": ["o_proj", "lm_head"]},
    "all-linear": {"target_modules": "all-linear", "init_lora_weights": "gaussian"},
}


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_from_peft_over_dream_gives_its_logits(tmp_path: Path, variant: str) -> None:
    base = build_dream(tmp_path / "base", seed=1, std=STD)
    with torch.enable_grad():
        model = train_with_peft(dream_base(base), tmp_path / "lora", **VARIANTS[variant])
    merged = load_checkpoint(base, adapter=tmp_path / "lora").transformer
    plain = load_checkpoint(base).transformer
    assert_same(dream_logits(merged), model(IDS[None]).logits[0], dream_logits(plain))


@torch.no_grad()
@pytest.mark.parametrize("anchored", [True, False])
def test_an_adapter_from_peft_over_llada_gives_its_logits(tmp_path: Path, anchored: bool) -> None:
    base = build_llada(tmp_path / "base", seed=1, std=STD)
    targets: Any = rf".*\.blocks\.\d+\.({'|'.join(LLADA_TARGETS)})" if anchored else LLADA_TARGETS
    model = train_with_peft(llada_base(base), tmp_path / "lora", target_modules=targets)
    stored = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    head = "base_model.model.model.transformer.ff_out.lora_A.weight"
    assert (head in stored) is not anchored  # PEFT's short names adapt the LM head too.
    merged, plain = (load_checkpoint(base, adapter=a).transformer for a in (tmp_path / "lora", None))
    assert torch.equal(merged.lm_head.weight, plain.lm_head.weight) is anchored
    assert_same(llada_logits(merged), model(IDS), llada_logits(plain))


def test_a_head_that_a_short_name_happens_to_match_may_be_left_out(tmp_path: Path) -> None:
    base = build_llada(tmp_path / "base")
    train_with_peft(llada_base(base), tmp_path / "lora", target_modules=["ff_out"])
    path = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if ".blocks." in name}, path)
    merged, plain = (load_checkpoint(base, adapter=a).transformer for a in (tmp_path / "lora", None))
    assert torch.equal(merged.lm_head.weight, plain.lm_head.weight)
    assert not torch.equal(merged.layers[1].mlp.down_proj.weight, plain.layers[1].mlp.down_proj.weight)  # type: ignore[union-attr, arg-type]


PICKS: dict[str, Callable[[str], bool]] = {
    "projections": lambda name: name != "lm_head",
    "first mlp": lambda name: name.startswith("layers.0.mlp"),
    "with head": lambda name: name in ("lm_head", "layers.1.self_attn.q_proj"),
}


@torch.no_grad()
@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("family", ["Dream", "llada"])
def test_what_we_write_loads_in_peft_and_gives_the_same_logits(tmp_path: Path, family: str, pick: str) -> None:
    base = (build_dream if family == "Dream" else build_llada)(tmp_path / "base", seed=2, std=STD)
    transformer = load_checkpoint(base).transformer
    lora = random_lora(transformer, 3, PICKS[pick])
    write_adapter(
        tmp_path / "lora",
        lora,
        backbone=BACKBONES[family],
        r=3,
        alpha=12,
        base="some/base",
        decoding=AdapterDecoding(8, 0.7),
    )
    assert sorted(path.name for path in (tmp_path / "lora").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "cdlm.json",
    ]  # fmt: skip
    checkpoint = load_checkpoint(base, adapter=tmp_path / "lora")
    assert (checkpoint.manifest.block_length, checkpoint.manifest.confidence_threshold) == (8, 0.7)
    hosts: nn.Module = dream_base(base) if family == "Dream" else llada_base(base)
    model = PeftModel.from_pretrained(hosts, str(tmp_path / "lora")).eval()  # type: ignore[arg-type]
    assert model.peft_config["default"].base_model_name_or_path == "some/base"
    adapted = [name for name, _ in model.named_modules() if name.endswith("lora_A")]
    assert len(adapted) == len(lora)
    if family == "Dream":
        assert_same(dream_logits(checkpoint.transformer), model(IDS[None]).logits[0], dream_logits(transformer))
    else:
        assert_same(llada_logits(checkpoint.transformer), model(IDS), llada_logits(transformer))


def test_every_value_comes_from_the_flag_then_the_adapter_then_the_base(tmp_path: Path) -> None:
    base = build_dream(tmp_path / "base")
    lora = random_lora(load_checkpoint(base).transformer, 2, PICKS["first mlp"])
    write_adapter(
        tmp_path / "lora",
        lora,
        backbone=BACKBONES["Dream"],
        r=2,
        alpha=4,
        base="b",
        decoding=AdapterDecoding(8, 0.7),
    )
    manifest = load_checkpoint(base, adapter=tmp_path / "lora", confidence_threshold=0.6).manifest
    assert (manifest.block_length, manifest.confidence_threshold) == (8, 0.6)
    (tmp_path / "lora" / "cdlm.json").write_text('{"block_length": 4}')
    manifest = load_checkpoint(base, adapter=tmp_path / "lora").manifest
    assert (manifest.block_length, manifest.confidence_threshold) == (4, 0.9)
    (tmp_path / "lora" / "cdlm.json").unlink()
    of_base = load_checkpoint(base).manifest
    assert load_checkpoint(base, adapter=tmp_path / "lora").manifest == replace(of_base, bidirectional=False)


@torch.no_grad()
def test_a_merge_into_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    base = build_dream(tmp_path / "base")
    train_with_peft(dream_base(base), tmp_path / "lora", target_modules=["q_proj"])
    lora = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    stored = load_file(base / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].bfloat16()
    truth = (stored.float() + 8 / 4 * (lora[key.format("B")] @ lora[key.format("A")])).bfloat16()
    merged = load_checkpoint(base, adapter=tmp_path / "lora", dtype=torch.bfloat16).transformer
    assert torch.equal(merged.layers[0].self_attn.q_proj.weight, truth)  # type: ignore[union-attr, arg-type]


def test_native_checkpoints_take_adapters_too(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base")
    plain = load_checkpoint(base).transformer
    lora = random_lora(plain, 2, PICKS["first mlp"])
    write_adapter(
        tmp_path / "lora",
        lora,
        backbone=BACKBONES["cdlm"],
        r=2,
        alpha=3,
        base="b",
        decoding=AdapterDecoding(8, 0.4),
    )
    merged = load_checkpoint(base, adapter=tmp_path / "lora").transformer.state_dict()
    for name, weight in plain.state_dict().items():
        down, up = lora.get(name.removesuffix(".weight"), (torch.zeros(1), torch.zeros(1)))
        torch.testing.assert_close(merged[name], weight + 3 / 2 * (up @ down))


def test_matrices_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    def write(lora: dict[str, tuple[Tensor, Tensor]], family: str = "Dream") -> None:
        write_adapter(
            tmp_path / "lora",
            lora,
            backbone=BACKBONES[family],
            r=2,
            alpha=4,
            base="b",
            decoding=AdapterDecoding(8, 0.7),
        )

    with pytest.raises(ValueError, match="at least one module"):
        write({})
    with pytest.raises(ValueError, match=r"module 'lm_head': A \(3, 4\) and B \(5, 2\) are not of rank 2"):
        write({"lm_head": (torch.zeros(3, 4), torch.zeros(5, 2))})
    with pytest.raises(ValueError, match=r"'layers\.0\.ff' has no name in the LLaDA format"):
        write({"layers.0.ff": (torch.zeros(2, 4), torch.zeros(5, 2))}, "llada")
    assert not (tmp_path / "lora").exists()
