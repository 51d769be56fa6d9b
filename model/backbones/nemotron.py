"""The format of Nemotron-Labs-Diffusion (NVIDIA, 2026): Ministral 3's layers; all but the current block is causal."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import COMPUTED, NO_NAMES
from cdlm.model.backbones.decoder import read_shape, with_defaults
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, RotaryScaling, TransformerConfig

# Per key: the default, and the one value that can be run.
_RUNNABLE: dict[str, tuple[object, object]] = {
    "architectures": (["NemotronLabsDiffusionModel"], ["NemotronLabsDiffusionModel"]),
    "dlm_paradigm": ("bidirectional", "bidirectional"),
    "dlm_type": ("llada", "llada"),
}
# What the configuration class assumes for absent keys.
_DEFAULTS: dict[str, object] = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 262_144,
    "block_size": 32,
}
ROPE_THETA = 1e6

_ROPE_KINDS = ("default", "yarn")
_ROPE_KEYS = {
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "llama_4_scaling_beta",
    "max_position_embeddings",  # Repeats the key beside the section.
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
}


class NemotronBackbone:
    """Checkpoints of ``NemotronLabsDiffusionModel``, for example Nemotron-Labs-Diffusion-8B.

    The prompt and finished blocks are computed causally, and predict the first token of the block behind them. The
    others are denoised in place, in a block that sees all of itself. Blocks of one token make a next-token model of the
    same weights.
    """

    name = model_type = "nemotron_labs_diffusion"
    # Scales of a cache in fewer bits, which this engine does not have.
    unused: tuple[str, ...] = (COMPUTED, ".self_attn.k_scale", ".self_attn.v_scale")

    draft_window: int = 30  # Of the 32 rows that linear_spec_lora was trained for, two are in front.

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys of a Ministral 3 configuration; nothing has biases.

        ``dlm_paradigm`` is the attention that a checkpoint is run with: the layouts of training are no way to decode.
        """
        keys.require(config, _RUNNABLE)
        config = with_defaults(config, **_DEFAULTS)
        theta, scaling = _read_rope(config)
        unscaled = {**config, "rope_parameters": None, "rope_scaling": None, "rope_theta": theta}
        shape = replace(read_shape(unscaled, qkv_bias=False), rotary_scaling=scaling)
        manifest = Manifest(
            block_length=keys.integer(config, "block_size"),
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,
            mask_token_id=keys.mask_token_id(config, shape.vocab_size, names),
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, keys.IM_END),
            max_model_len=keys.context(config),
            trained_len=keys.positions(config),
            prompt_attention="causal",
            commit_attention="causal",
            first_token="autoregressive",
        )
        return shape, manifest

    def module_name(self, stored: str) -> str | None:
        """``encoder.layers.0.mlp`` is ``layers.0.mlp``; ``diffusion_head`` is the LM head."""
        if stored == "diffusion_head":
            return "lm_head"
        return stored.removeprefix("encoder.") if stored.startswith("encoder.") else None

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``."""
        return "diffusion_head" if name == "lm_head" else f"encoder.{name}"


def _read_rope(config: keys.Config) -> tuple[float, RotaryScaling | None]:
    """Base of the rotary angles, ``ROPE_THETA`` if no key has it, and how YaRN stretches them.

    Raises:
        CheckpointError: the section ``rope_parameters`` or ``rope_scaling`` is missing, or asks for something else than
            YaRN and a scale of queries; the message names the key.
    """
    found = {name: config[name] for name in ("rope_parameters", "rope_scaling") if config.get(name) is not None}
    if not found:
        raise CheckpointError("config.json: rope_parameters is missing")
    name, section = next(iter(found.items()))
    if not all(isinstance(each, Mapping) and each == section for each in found.values()):
        raise CheckpointError(
            f"config.json: {' and '.join(found)} must be the same section, got {list(found.values())}"
        )
    kind = section.get("rope_type", section.get("type", "default"))
    if kind not in _ROPE_KINDS:
        raise CheckpointError(f"config.json: {name} is {section!r}; only rope_type 'default' and 'yarn' can be run")
    for key in sorted(section.keys() - _ROPE_KEYS):
        if section[key] is not None and not (key == "partial_rotary_factor" and section[key] == 1):
            raise CheckpointError(f"config.json: {name}.{key} is {section[key]!r}, which is not implemented")
    base = keys.number({"rope_theta": section.get("rope_theta") or config.get("rope_theta")}, "rope_theta", ROPE_THETA)
    beta = keys.number(section, "llama_4_scaling_beta", 0.0)
    if kind == "default" and not beta:
        return base, None
    positions = keys.integer(section, "original_max_position_embeddings")
    if kind == "default":
        return base, RotaryScaling(factor=1.0, positions=positions, query_beta=beta)
    factor = keys.number(section, "factor", keys.positions(config) / positions if positions else None)
    return base, RotaryScaling(
        factor=factor,
        positions=positions,
        # As in transformers, 0 means the default.
        beta_fast=keys.number(section, "beta_fast", 32.0) or 32.0,
        beta_slow=keys.number(section, "beta_slow", 1.0) or 1.0,
        truncate=keys.flag(section, "truncate", True),
        attention_factor=_attention_factor(section, factor),
        query_beta=beta,
    )


def _attention_factor(section: Mapping[str, Any], factor: float) -> float:
    """What cosines and sines are multiplied by."""
    if section.get("attention_factor") is not None:
        return keys.number(section, "attention_factor")

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    above, below = (keys.number(section, key, 0.0) for key in ("mscale", "mscale_all_dim"))
    return growth(above) / growth(below) if above and below else growth(1.0)
