"""The format of Nemotron-Labs-Diffusion (NVIDIA, 2026): Ministral 3's layers; all but the current block is causal."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import COMPUTED, NO_NAMES
from cdlm.model.backbones.decoder import read_shape, with_defaults
from cdlm.model.backbones.scaled_rope import read_rope
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

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
        keys.require_architecture(config, "NemotronLabsDiffusionModel")
        keys.require(config, {"dlm_paradigm": ("bidirectional", "bidirectional"), "dlm_type": ("llada", "llada")})
        config = with_defaults(config, **_DEFAULTS)
        theta, scaling = read_rope(config, ROPE_THETA)
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
