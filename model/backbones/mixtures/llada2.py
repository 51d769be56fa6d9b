"""The format of LLaDA 2 (Bie et al., 2026, arXiv 2602.08676): experts in groups, a part of each head turned."""

import re
from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.decoder import read_shape
from cdlm.model.backbones.llama_qwen import DecoderBackbone
from cdlm.model.config import CheckpointError, MixtureConfig, TransformerConfig

# The default of the decoder published with LLaDA 2.1.
_EDIT_THRESHOLD = 0.9

# Per key: the configuration class's default, and the one value that is implemented.
_RUNNABLE: dict[str, tuple[object, object]] = {
    "norm_head": (False, False),
    "norm_softmax": (False, False),
    "norm_topk_prob": (True, True),
    "router_dtype": ("fp32", "fp32"),
    "score_function": ("sigmoid", "sigmoid"),
    "use_bias": (True, False),
    "use_qkv_bias": (False, False),
    "use_rmsnorm": (True, True),
}
# What the configuration class assumes for absent keys, other than for sizes.
_ASSUMED: dict[str, object] = {
    "first_k_dense_replace": 0,
    "max_position_embeddings": 16_384,
    "n_group": 8,
    "num_shared_experts": 0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "routed_scaling_factor": 2.5,
    "topk_group": 4,
}
_READ = {*_ASSUMED, "moe_router_enable_expert_bias", "num_experts", "score_function"}

_TOP = {"model.word_embeddings": "embed_tokens", "model.norm": "norm", "lm_head": "lm_head"}
_IN_LAYER = {
    "input_layernorm": "input_layernorm",
    "attention.query_key_value": "self_attn.q_proj+k_proj+v_proj",
    "attention.query_layernorm": "self_attn.q_norm",
    "attention.key_layernorm": "self_attn.k_norm",
    "attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.gate": "mlp.router",
}
_STORED_TOP = {name: stored for stored, name in _TOP.items()}
_STORED_IN_LAYER = {name: stored for stored, name in _IN_LAYER.items()}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
# These have the same names on both sides.
_FEED_FORWARD = re.compile(r"mlp\.((experts\.\d+|shared_experts)\.)?(gate|up|down)_proj")


class Llada2Backbone(DecoderBackbone):
    """Checkpoints of ``LLaDA2MoeModelLM``, for example LLaDA2.0-mini: after the first layers, all have experts."""

    def shape(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Reads sigmoid scores with a bias, groups of experts, and experts that every token gets, as one wide one."""
        keys.require(config, _RUNNABLE)
        width, shared = keys.integer(config, "moe_intermediate_size"), keys.integer(config, "num_shared_experts")
        stated = config.get("moe_shared_expert_intermediate_size")
        if shared and stated not in (None, width):
            raise CheckpointError(
                f"config.json: moe_shared_expert_intermediate_size is {stated!r}; only moe_intermediate_size {width}"
                " can be run"
            )
        chosen = keys.integer(config, "num_experts_per_tok")
        mixture = MixtureConfig(
            experts=keys.integer(config, "num_experts"),
            experts_per_token=chosen,
            width=width,
            shared_width=shared * width,
            scores="sigmoid",
            biased=keys.flag(config, "moe_router_enable_expert_bias", True),
            groups=keys.integer(config, "n_group"),
            groups_per_token=keys.integer(config, "topk_group"),
            normalized=chosen > 1,
            scale=keys.number(config, "routed_scaling_factor"),
            dense_layers=keys.integer(config, "first_k_dense_replace"),
        )
        turned = keys.number(config, "partial_rotary_factor")
        return read_shape(
            config, qkv_bias=False, qk_norm=self.qk_norm, turned=turned, mixture=mixture, implemented=_READ
        )

    def edit_threshold(self, config: Mapping[str, Any]) -> float | None:
        """LLaDA 2.1 differs from 2.0 by its weights alone: ``edit_threshold`` or its name may tell."""
        if config.get("edit_threshold") is not None:
            return keys.number(config, "edit_threshold")
        return _EDIT_THRESHOLD if "LLaDA2.1" in str(config.get("_name_or_path")) else None

    def module_name(self, stored: str) -> str | None:
        """Queries, keys and values are stored as one matrix."""
        if stored in _TOP:
            return _TOP[stored]
        match = _LAYER.fullmatch(stored.removeprefix("model."))
        if match is None or not stored.startswith("model."):
            return None
        leaf = match[2] if _FEED_FORWARD.fullmatch(match[2]) else _IN_LAYER.get(match[2])
        return None if leaf is None else f"layers.{match[1]}.{leaf}"

    def stored_module(self, name: str) -> str:
        """The inverse of ``module_name``; queries, keys and values have the name of their common matrix."""
        if name in _STORED_TOP:
            return _STORED_TOP[name]
        match = _LAYER.fullmatch(name)
        leaf = re.sub(r"self_attn\.[qkv]_proj$", "self_attn.q_proj+k_proj+v_proj", match[2]) if match else ""
        if match is None or not (leaf in _STORED_IN_LAYER or _FEED_FORWARD.fullmatch(leaf)):
            raise ValueError(f"module {name!r} has no name in the LLaDA 2 format")
        return f"model.layers.{match[1]}.{_STORED_IN_LAYER.get(leaf, leaf)}"


LLADA2 = Llada2Backbone(
    name="llada2_moe",
    model_type="llada2_moe",
    architecture="LLaDA2MoeModelLM",
    block_length=32,
    mask=156895,
    assumed=_ASSUMED,
    end_of_turn="<|role_end|>",
    qk_norm=True,
    confidence_threshold=0.95,
)
