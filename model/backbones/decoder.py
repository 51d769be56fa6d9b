"""The layout of Llama and Qwen checkpoints: configuration keys and module names."""

from collections.abc import Collection, Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import COMPUTED
from cdlm.model.backbones.refusals import refuse_unimplemented
from cdlm.model.config import CheckpointError, MixtureConfig, TransformerConfig

# What the configuration classes of the family assume for absent keys.
ROPE_THETA, RMS_NORM_EPS, POSITIONS = 10_000.0, 1e-6, 32_768


class DecoderNames:
    """Module names of Llama and Qwen: all under ``model.`` except ``lm_head``."""

    unused: tuple[str, ...] = (COMPUTED,)
    draft_window: int = 0

    def module_name(self, stored: str) -> str | None:
        """``model.layers.0.mlp`` is ``layers.0.mlp``; ``lm_head`` keeps its name."""
        return stored.removeprefix("model.")  # Checkpoints saved without a head lack the prefix.

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``."""
        return name if name == "lm_head" else f"model.{name}"


def with_defaults(config: Mapping[str, Any], **assumed: object) -> dict[str, Any]:
    """Returns ``config`` with ``assumed`` for keys that are absent or null."""
    return {**assumed, **{key: value for key, value in config.items() if value is not None}}


def read_shape(
    config: Mapping[str, Any],
    *,
    qkv_bias: bool,
    qk_norm: bool = False,
    turned: float = 1.0,
    mixture: MixtureConfig | None = None,
    implemented: Collection[str] = (),
) -> TransformerConfig:
    """Reads the shape. The format says whether query, key and value have biases, and query and key norms.

    It has also read the part of a head that is ``turned`` and the mixture of experts, if any, from the keys
    ``implemented``.

    Raises:
        CheckpointError: a key is missing or unusable, or asks for something that ``Transformer`` does not implement.
    """
    refuse_unimplemented(config, qk_norm=qk_norm, implemented=implemented)
    keys.require(config, {"hidden_act": ("silu", "silu"), "mlp_bias": (False, False)})
    if not qkv_bias:  # In formats with optional biases, the key adds one to the output projection too.
        keys.require(config, {"attention_bias": (False, False)})
    num_layers, layer_types = keys.integer(config, "num_hidden_layers"), config.get("layer_types")
    if layer_types not in (None, ["full_attention"] * num_layers):
        raise CheckpointError(f"config.json: layer_types is {layer_types!r}; only 'full_attention' layers can be run")
    hidden_size, heads = keys.integer(config, "hidden_size"), keys.integer(config, "num_attention_heads")
    if config.get("head_dim") is None:
        head_dim = keys.head_size("hidden_size", hidden_size, "num_attention_heads", heads)
    else:
        head_dim = keys.integer(config, "head_dim")
    return TransformerConfig(
        vocab_size=keys.integer(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=keys.integer(config, "intermediate_size"),
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=keys.integer(config, "num_key_value_heads", heads),
        head_dim=head_dim,
        rope_theta=keys.rope_theta(config, ROPE_THETA, turned),
        rms_norm_eps=keys.number(config, "rms_norm_eps", RMS_NORM_EPS),
        attention_bias=qkv_bias,
        qk_norm=qk_norm,
        tie_word_embeddings=keys.flag(config, "tie_word_embeddings", False),
        partial_rotary_factor=turned,
        mixture=mixture,
    )
