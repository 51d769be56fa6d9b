"""Refuses keys of ``config.json`` that ask for something that our transformer does not implement."""

from collections.abc import Collection, Mapping
from typing import Any

from cdlm.model.config import CheckpointError

# Per key, the values that change nothing; absent and null change nothing either.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_chunk_size": (),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "clip_qkv": (),
    "decoder_sparse_step": (1,),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "first_k_dense_replace": (0,),
    "is_encoder_decoder": (False,),
    "kv_lora_rank": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_only_layers": ([],),
    "moe_router_enable_expert_bias": (False,),
    "n_group": (1,),
    "n_routed_experts": (),
    "n_shared_experts": (0,),
    "no_rope_layer_interval": (),
    "no_rope_layers": ([],),
    "num_experts": (),
    "num_local_experts": (),
    "num_shared_experts": (0,),
    "parallel_attn": (False,),
    "partial_rotary_factor": (1,),
    "q_lora_rank": (),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "routed_scaling_factor": (1,),
    "score_function": ("softmax",),
    "scoring_func": ("softmax",),
    "shared_expert_intermediate_size": (0,),
    "sliding_window_pattern": (),
    "topk_group": (1,),
    "use_parallel_residual": (False,),
}
# Keys by which model families ask for normalized queries and keys.
_QK_NORM = ("qk_layernorm", "qk_norm", "use_qk_norm")


def refuse_unimplemented(config: Mapping[str, Any], *, qk_norm: bool, implemented: Collection[str] = ()) -> None:
    """Raises ``CheckpointError`` that names a key whose value asks for something not implemented.

    ``qk_norm`` says whether the format normalizes queries and keys; ``implemented`` are keys that it reads itself.
    """
    for key, neutral in _NEUTRAL.items():
        value = config.get(key)
        if key not in implemented and value is not None and value not in neutral:
            raise _refused(key, value)
    for key in _QK_NORM:
        if config.get(key) not in (None, qk_norm):
            raise _refused(key, config[key])
    _refuse_windows(config)
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise CheckpointError(
            f"config.json: quantization_config: weights stored as {method!r} cannot be loaded; use the plain weights"
            " (--quantization makes them smaller)"
        )


def _refuse_windows(config: Mapping[str, Any]) -> None:
    """Refuses a sliding window that some layer uses.

    The key ``use_sliding_window`` turns it on, in layers from ``max_window_layers`` on; without that key, a window
    alone turns it on.
    """
    layers = config.get("num_hidden_layers")
    if config.get("use_sliding_window"):
        first = config.get("max_window_layers")
        if not isinstance(first, int) or not isinstance(layers, int) or first < layers:
            raise _refused("use_sliding_window", True)
    elif "use_sliding_window" not in config and config.get("sliding_window") is not None:
        raise _refused("sliding_window", config["sliding_window"])


def _refused(key: str, value: object) -> CheckpointError:
    return CheckpointError(f"config.json: {key} is {value!r}, which is not implemented")
