"""The format of LLaDA (Nie et al., 2025, arXiv 2502.09992): Llama's layers under OLMo's names, bidirectional."""

import re
from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import COMPUTED, NO_NAMES
from cdlm.model.backbones.refusals import refuse_unimplemented
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig

EOT = "<|eot_id|>"  # Ends a turn of the chat template.
MASK = "<|mdm_mask|>"

# Per key: the configuration class's default, and the one value that our transformer implements.
_RUNNABLE: dict[str, tuple[object, object]] = {
    "architectures": (["LLaDAModelLM"], ["LLaDAModelLM"]),
    "block_type": ("sequential", "llama"),
    "block_group_size": (1, 1),
    "activation_type": ("swiglu", "silu"),
    "layer_norm_type": ("default", "rms"),
    "layer_norm_with_affine": (True, True),
    "bias_for_layer_norm": (False, False),
    "attention_layer_norm": (False, False),
    "alibi": (False, False),
    "rope": (False, True),
    "include_bias": (False, False),
    "input_emb_norm": (False, False),
    "scale_logits": (False, False),
}

_TOP = {"wte": "embed_tokens", "ln_f": "norm", "ff_out": "lm_head"}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_STORED_TOP = {name: stored for stored, name in _TOP.items()}
_STORED_IN_BLOCK = {name: stored for stored, name in _IN_BLOCK.items()}


class LladaBackbone:
    """Checkpoints of ``LLaDAModelLM``, for example LLaDA-8B-Instruct."""

    name = model_type = "llada"
    unused: tuple[str, ...] = (COMPUTED,)
    draft_window: int = 0

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys of an OLMo configuration; raises ``CheckpointError`` for layers other than Llama's."""
        keys.require(config, _RUNNABLE)
        refuse_unimplemented(config, qk_norm=False)
        hidden_size, heads = keys.integer(config, "d_model"), keys.integer(config, "n_heads")
        shape = TransformerConfig(
            # The matrices have embedding_size rows; vocab_size counts those in use.
            vocab_size=keys.integer(config, "vocab_size" if config.get("embedding_size") is None else "embedding_size"),
            hidden_size=hidden_size,
            intermediate_size=_intermediate_size(config, hidden_size),
            num_layers=keys.integer(config, "n_layers"),
            num_heads=heads,
            num_kv_heads=_kv_heads(config, heads),
            head_dim=keys.head_size("d_model", hidden_size, "n_heads", heads),
            rope_theta=keys.rope_theta(config, 10_000.0),
            rms_norm_eps=keys.number(config, "rms_norm_eps", 1e-5),
            attention_bias=keys.flag(config, "include_qkv_bias", False),
            tie_word_embeddings=keys.flag(config, "weight_tying", True),
        )
        manifest = Manifest(
            block_length=keys.BLOCK_LENGTH,
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,
            mask_token_id=keys.mask_token_id(config, shape.vocab_size, names, MASK),
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, EOT),
            max_model_len=keys.integer(config, "max_sequence_length", 1024),
            bidirectional=True,  # The format does not tell a teacher from a teacher with a student merged into it.
        )
        return shape, manifest

    def module_name(self, stored: str) -> str | None:
        """Maps ``ff_out`` inside a layer to the MLP's second matrix, and outside the layers to the LM head."""
        if match := re.fullmatch(r"model\.transformer\.blocks\.(\d+)\.(\w+)", stored):
            leaf = _IN_BLOCK.get(match[2])
            return f"layers.{match[1]}.{leaf}" if leaf else None
        return _TOP.get(stored.removeprefix("model.transformer.")) if stored.startswith("model.transformer.") else None

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``."""
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if match and match[2] in _STORED_IN_BLOCK:
            return f"model.transformer.blocks.{match[1]}.{_STORED_IN_BLOCK[match[2]]}"
        if name in _STORED_TOP:
            return f"model.transformer.{_STORED_TOP[name]}"
        raise ValueError(f"module {name!r} has no name in the LLaDA format")


def _intermediate_size(config: Mapping[str, Any], hidden_size: int) -> int:
    if config.get("mlp_hidden_size") is None:
        return keys.integer(config, "mlp_ratio") * hidden_size
    return keys.integer(config, "mlp_hidden_size")


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    """Key-value heads, from ``n_kv_heads`` or ``multi_query_attention``; the two must agree."""
    given = heads if config.get("n_kv_heads") is None else keys.integer(config, "n_kv_heads")
    if config.get("multi_query_attention") is None:
        return given
    implied = 1 if keys.flag(config, "multi_query_attention", False) else heads
    if config.get("n_kv_heads") is not None and given != implied:
        raise CheckpointError(f"config.json: n_kv_heads is {given}, multi_query_attention makes it {implied}")
    return implied
