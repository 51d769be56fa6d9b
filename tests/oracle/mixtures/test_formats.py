"""LLaDA 2 and SDAR with experts compute and decode what independent plain implementations do."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.matrix import some
from tests.support.models.hf_references import STD, logits
from tests.support.models.mixtures import EOS, MASK, VOCAB, build_llada2, build_sdar_moe
from tests.support.models.published import Logits, Published, check_edited_prompts, check_prompts, logits_of

RULES = {"llada2": Published(32, MASK, EOS, 0.95), "sdar": Published(4, MASK, EOS, 0.9)}


def build(name: str, directory: Path, seed: int, **changes: Any) -> Logits:
    """Writes a checkpoint; returns the plain implementation's logits."""
    if name == "llada2":
        return build_llada2(directory, seed, **changes).logits
    return logits_of(build_sdar_moe(directory, seed, **changes))


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("llada2", {}),
    ("llada2", {"num_shared_experts": 2, "first_k_dense_replace": 0, "tie_word_embeddings": True}),
    ("llada2", {"num_shared_experts": 0, "moe_router_enable_expert_bias": False, "n_group": 1, "topk_group": 1}),
    ("llada2", {"partial_rotary_factor": 1.0, "topk_group": 4, "num_experts_per_tok": 8}),
    ("llada2", {"partial_rotary_factor": 0.25, "first_k_dense_replace": 3}),
    ("sdar", {}),
    ("sdar", {"norm_topk_prob": False, "tie_word_embeddings": True}),
    ("sdar", {"num_experts_per_tok": 1}),
    ("sdar", {"num_experts_per_tok": 12}),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "changes"), CHANGES)
def test_logits_equal_the_plain_implementation(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    for seed in range(5):
        plain = build(name, tmp_path / str(seed), seed, std=STD, **changes)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(VOCAB, (40,), generator=generator)
        sees = (torch.rand(40, 40, generator=generator) < 0.5) | torch.eye(40, dtype=torch.bool)
        found = logits(load_checkpoint(tmp_path / str(seed)).transformer, ids, sees)
        torch.testing.assert_close(found, plain(ids, sees), atol=1e-5, rtol=1e-5)


# LLaDA2.1, below, has the layers of LLaDA2.
@pytest.mark.parametrize(("name", "seed"), some(list(product(("sdar", "llada2"), range(5))), every=10))
def test_prompts_of_every_length_modulo_the_block(tmp_path: Path, name: str, seed: int) -> None:
    check_prompts(tmp_path, build(name, tmp_path, seed), RULES[name], seed)


# The default of the published decoder, and the two modes of the model card; the second edits whatever differs.
MODES = [(0.95, 0.9), (0.7, 0.5), (0.5, 1e-6)]


@pytest.mark.parametrize(("thresholds", "seed"), some(list(product(MODES, range(5))), every=15, first=5))
def test_llada21_replaces_what_the_published_decoder_replaces(
    tmp_path: Path, thresholds: tuple[float, float], seed: int
) -> None:
    """With prompts of every length modulo the block."""
    threshold, editing = thresholds
    named = {"_name_or_path": "inclusionAI/LLaDA2.1-mini"} if editing == 0.9 else {"edit_threshold": editing}
    logits = build("llada2", tmp_path, seed, std=0.5, **named)  # Surer than the others.
    assert check_edited_prompts(tmp_path, logits, Published(32, MASK, EOS, threshold, editing), seed) > 0
