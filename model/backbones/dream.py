"""The format of Dream (Ye et al., 2025, arXiv 2508.15487): Qwen2's layers, bidirectional, predictions shifted."""

from collections.abc import Mapping
from typing import Any

from model.backbones import keys
from model.config import Manifest, TransformerConfig

IM_END = 151645  # ``<|im_end|>`` ends a turn of the chat template.
TRAINED_CONTEXT = 2048  # max_position_embeddings is inherited from Qwen2.5, Dream was not trained that far.


class DreamBackbone:
    """Checkpoints of ``DreamModel``, such as Dream-v0-Instruct-7B."""

    model_type = "Dream"

    def read(self, config: Mapping[str, Any]) -> tuple[TransformerConfig, Manifest]:
        """Shape from the keys of a Qwen2 configuration; query, key and value have biases unless it says otherwise."""
        keys.require_architecture(config, "DreamModel")
        keys.require(
            config, {"hidden_act": ("silu", "silu"), "mlp_bias": (False, False), "use_sliding_window": (False, False)}
        )
        hidden_size, heads = keys.integer(config, "hidden_size"), keys.integer(config, "num_attention_heads")
        shape = TransformerConfig(
            vocab_size=keys.integer(config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=keys.integer(config, "intermediate_size"),
            num_layers=keys.integer(config, "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=keys.integer(config, "num_key_value_heads"),
            head_dim=keys.head_size("hidden_size", hidden_size, "num_attention_heads", heads),
            rope_theta=keys.rope_theta(config),
            rms_norm_eps=keys.number(config, "rms_norm_eps"),
            attention_bias=keys.flag(config, "attention_bias", True),
            tie_word_embeddings=keys.flag(config, "tie_word_embeddings", False),
        )
        context = min(keys.integer(config, "max_position_embeddings"), TRAINED_CONTEXT)
        manifest = keys.bidirectional_manifest(
            config, shape.vocab_size, extra_stop_id=IM_END, max_model_len=context, shift=True
        )
        return shape, manifest

    def module_name(self, stored: str) -> str | None:
        """``model.layers.0.mlp`` is ``layers.0.mlp``; ``lm_head`` keeps its name."""
        if stored == "lm_head":
            return stored
        return stored.removeprefix("model.") if stored.startswith("model.") else None

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``."""
        return name if name == "lm_head" else f"model.{name}"
