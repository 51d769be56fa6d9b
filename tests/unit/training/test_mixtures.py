"""Adapters over mixtures of experts: gradients reach them, and projections without a name of their own are refused."""

from pathlib import Path

import pytest
import torch

from cdlm.model.backbones import BACKBONES
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.backbone.config import LoraSection
from cdlm.training.backbone.lora import add_adapter, check_names, trainable
from cdlm.training.batches.attention import RowAttention
from cdlm.training.errors import TrainingError
from tests.support.models.mixtures import build_llada2, build_sdar_moe


def test_joined_projections_are_refused_before_the_training(tmp_path: Path) -> None:
    build_llada2(tmp_path)
    transformer = load_checkpoint(tmp_path).transformer
    add_adapter(transformer, LoraSection(r=2, alpha=4, targets=("o_proj", "q_proj")))
    with pytest.raises(TrainingError, match=r"targets: layers\.0\.self_attn\.q_proj is a part of .*query_key_value"):
        check_names(transformer, BACKBONES["llada2_moe"])


def test_gradients_pass_through_experts(tmp_path: Path) -> None:
    build_sdar_moe(tmp_path)
    transformer = load_checkpoint(tmp_path).transformer
    add_adapter(transformer, LoraSection(r=2, alpha=4, targets=("q_proj", "o_proj")))
    check_names(transformer, BACKBONES["sdar_moe"])
    for parameter in trainable(transformer).values():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(12)[None]
    sees = torch.ones(12, 12, dtype=torch.bool).tril()[None]
    hidden = transformer(ids, torch.arange(12)[None], RowAttention(sees))
    transformer.logits(hidden).logsumexp(-1).sum().backward()
    first = [parameter for name, parameter in trainable(transformer).items() if name.startswith("layers.0.")]
    assert first
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in first)
