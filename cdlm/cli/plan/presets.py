"""The shapes of published models, from their ``config.json``, so that planning needs no download."""

from collections.abc import Mapping
from typing import Any

_QWEN3: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 151936, "rope_theta": 1e6, "eos_token_id": 151643}
_QWEN3_8B: dict[str, Any] = {
    **_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
}  # fmt: skip
_IS_SDAR: dict[str, Any] = {"model_type": "sdar", "architectures": ["SDARForCausalLM"]}
_SDAR: dict[str, Any] = {**_QWEN3, **_IS_SDAR}
_QWEN2: dict[str, Any] = {"rope_theta": 1e6, "eos_token_id": 151643}
_QWEN2_7B: dict[str, Any] = {
    **_QWEN2,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
_FAST_DLLM: dict[str, Any] = {"model_type": "Fast_dLLM_Qwen", "architectures": ["Fast_dLLM_QwenForCausalLM"]}

# The keys that ``cdlm.model.backbones`` reads, but those that it fills in with the same value. Fast-dLLM v2 takes the
# shapes of Qwen2.5-Instruct, its base.
PRESETS: dict[str, Mapping[str, Any]] = {
    "dream-7b": {**_QWEN2_7B, "model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": 151666},
    "llada-8b": {
        "model_type": "llada",
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "d_model": 4096,
        "mlp_hidden_size": 12288,
        "n_layers": 32,
        "n_heads": 32,
        "embedding_size": 126464,
        "weight_tying": False,
        "max_sequence_length": 4096,
        "rope_theta": 5e5,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
    },
    "sdar-1.7b": {
        **_SDAR, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
    },
    "sdar-4b": {
        **_SDAR, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    },
    "sdar-8b": {**_QWEN3_8B, **_IS_SDAR},
    "dream-reasoner-8b": {**_QWEN3_8B, "model_type": "Dream", "architectures": ["DreamForCausalLM"]},
    "stable-diffcoder-8b": {
        "model_type": "llama",
        "architectures": ["StableDiffcoderForCausalLM"],
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "vocab_size": 155136,
        "max_position_embeddings": 8192,
        "rope_theta": 5e5,
        "eos_token_id": 2,
    },
    "nemotron-labs-diffusion-8b": {
        "model_type": "nemotron_labs_diffusion",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        "mask_token_id": 100,
        "eos_token_id": 11,
    },
    "fast-dllm-v2-1.5b": {
        **_QWEN2,
        **_FAST_DLLM,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "fast-dllm-v2-7b": {**_QWEN2_7B, **_FAST_DLLM},
    "llada2-mini": {
        "model_type": "llada2_moe",
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 20,
        "first_k_dense_replace": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "use_bias": False,
        "vocab_size": 157184,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 6e5,
        "eos_token_id": 156892,
    },
    "sdar-30b-a3b": {
        **_QWEN3,
        "model_type": "sdar_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "cdlm-smol": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e5,
        "eos_token_id": 2,
    },
}  # fmt: skip
