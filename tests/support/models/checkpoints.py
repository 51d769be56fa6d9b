"""Tiny random checkpoints on disk, in the real format, for every axis of the backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.model.config import Manifest, MixtureConfig, RotaryScaling, TransformerConfig
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer

VOCAB = 64
MASK, EOS = 63, 62

AUTOREGRESSIVE: dict[str, Any] = {
    "block_length": 1,
    "prompt_attention": "causal",
    "block_origin": "absolute",
    "shift": True,
    "first_token": "autoregressive",
}

STRETCHED: dict[str, Any] = {
    "rotary_scaling": RotaryScaling(
        factor=4.0, positions=16, beta_fast=2.0, beta_slow=0.01, attention_factor=1.1, query_beta=0.3
    )
}

# Each entry: overrides of the shape, overrides of the manifest.
AXES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "shifted": ({"attention_bias": True}, {"shift": True}),
    "qk_norm_tied": ({"qk_norm": True, "tie_word_embeddings": True}, {}),
    "absolute": ({"qk_norm": True}, {"block_origin": "absolute", "prompt_attention": "block_causal"}),
    "absolute_shifted": ({}, {"block_origin": "absolute", "prompt_attention": "block_causal", "shift": True}),
    "first_token_autoregressive": (
        {"attention_bias": True},
        {
            "block_origin": "absolute",
            "prompt_attention": "block_causal",
            "shift": True,
            "first_token": "autoregressive",
        },
    ),
    "block_causal_prompt_end": ({}, {"prompt_attention": "block_causal"}),
    "causal_prompt": ({}, {"prompt_attention": "causal", "shift": True}),
    "stretched": (STRETCHED, {}),
    "causal_commit": (
        STRETCHED,
        {"prompt_attention": "causal", "commit_attention": "causal", "first_token": "autoregressive"},
    ),
    "causal_commit_masked": (
        {},
        {"block_origin": "absolute", "prompt_attention": "causal", "commit_attention": "causal", "shift": True},
    ),
    "causal_commit_unshifted": ({}, {"prompt_attention": "causal", "commit_attention": "causal"}),
    "experts": (
        {
            "qk_norm": True,
            "partial_rotary_factor": 0.5,
            "mixture": MixtureConfig(
                experts=8,
                experts_per_token=3,
                width=12,
                shared_width=10,
                scores="sigmoid",
                biased=True,
                groups=4,
                groups_per_token=2,
                scale=2.5,
                dense_layers=1,
            ),
        },
        {"block_origin": "absolute", "prompt_attention": "block_causal"},
    ),
    "experts_by_softmax": ({"mixture": MixtureConfig(experts=6, experts_per_token=2, width=16)}, {}),
    "autoregressive": ({}, AUTOREGRESSIVE),
    "autoregressive_without_mask": ({}, AUTOREGRESSIVE),
}
# Their ``mask_token_id`` is the first id past the vocabulary, as in checkpoints that transformers decodes.
WITHOUT_MASK = ("autoregressive_without_mask",)
MASKED_AXES = [axis for axis in AXES if axis not in WITHOUT_MASK]

# Between them these have every value of every part of a shape and of a manifest, but for a router's softmax, which the
# tests of formats have. The others join such values in other
# ways; what is held to the slow decoder on all axes with one feature alone is so on these in the usual run.
SAMPLED_AXES = (
    "shifted",
    "qk_norm_tied",
    "absolute",
    "first_token_autoregressive",
    "causal_prompt",
    "causal_commit",
    "experts",
    "autoregressive_without_mask",
)

# Each of these has most of those values, and the two together have all: tests of one feature share them out.
ONE_HALF = ("shifted", "absolute", "causal_commit", "autoregressive_without_mask")
OTHER_HALF = ("qk_norm_tied", "first_token_autoregressive", "causal_prompt", "experts")


def axes(*names: str, sample: Sequence[str] = SAMPLED_AXES) -> Any:
    """Parametrizes ``axis`` with these names, or all; those outside the sample have the marker ``whole``."""
    return pytest.mark.parametrize(
        "axis",
        [pytest.param(name, marks=[] if name in sample else [pytest.mark.whole]) for name in names or AXES],
    )


def build_checkpoint(
    directory: Path,
    axis: str = "plain",
    seed: int = 0,
    vocab_size: int = VOCAB,
    num_layers: int = 2,
    **manifest_overrides: Any,
) -> Path:
    """Writes a checkpoint whose confidences spread over (0, 1), so that thresholds decide something."""
    shape, manifest = AXES[axis]
    config = TransformerConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": num_layers,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            **shape,
        }
    )
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.35, generator=generator)
        else:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2, generator=generator)
    values = {
        "block_length": 8,
        "confidence_threshold": 0.4,
        "mask_token_id": MASK,
        "stop_token_ids": (EOS,),
        "max_model_len": 256,
        **manifest,
        **manifest_overrides,
    }
    if axis in WITHOUT_MASK:
        values["mask_token_id"] = vocab_size
    save_checkpoint(directory, model, Manifest(**values))
    return directory
