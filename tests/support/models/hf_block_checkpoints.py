"""Tiny random checkpoints of block-causal and autoregressive formats, and the same weights in transformers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB, EOS, MASK = 96, 90, 95

_SIZES: dict[str, Any] = {
    "attention_dropout": 0.0,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCAB,
}
_WINDOW: dict[str, Any] = {"max_window_layers": 2, "sliding_window": None, "use_sliding_window": False}
_QWEN3: dict[str, Any] = {**_SIZES, **_WINDOW, "attention_bias": False, "head_dim": 16}

# ``config.json`` as published, but for the sizes; by the format's name.
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {**_SIZES, **_WINDOW, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {**_QWEN3, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "llama": {
        **_SIZES,
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
    },
    "sdar": {
        **_QWEN3,
        "architectures": ["SDARForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "mask_token_id": MASK,
        "model_type": "sdar",
    },
    "Fast_dLLM_Qwen": {
        **_SIZES,
        **_WINDOW,
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
            "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
        },
        "bd_size": 32,
        "layer_types": ["full_attention", "full_attention"],
        "mask_token_id": MASK,
        "model_type": "Fast_dLLM_Qwen",
    },
    "DreamReasoner": {
        **_QWEN3,
        "architectures": ["DreamForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModelForCausalLM": "modeling_dream.DreamForCausalLM",
        },
        "block_size": 32,
        "mask_token_id": MASK,
        "model_type": "Dream",
    },
    "Stable-DiffCoder": {
        **_SIZES,
        "architectures": ["StableDiffcoderForCausalLM"],
        "attention_bias": False,
        "auto_map": {"AutoModelForCausalLM": "modeling.StableDiffcoderForCausalLM"},
        "bos_token_id": 0,
        "mlp_bias": False,
        "model_type": "llama",
        "pad_token_id": 1,
        "pretraining_tp": 1,
        "rope_theta": 5e5,
    },
}

# By the architecture.
_IN_TRANSFORMERS: dict[str, tuple[Any, Any]] = {
    "Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
    "Qwen3ForCausalLM": (Qwen3Config, Qwen3ForCausalLM),
    "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
    "SDARForCausalLM": (Qwen3Config, Qwen3ForCausalLM),
    "Fast_dLLM_QwenForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
    "DreamForCausalLM": (Qwen3Config, Qwen3ForCausalLM),
    "StableDiffcoderForCausalLM": (LlamaConfig, LlamaForCausalLM),
}
_SHAPE_KEYS = ("head_dim", "rms_norm_eps", *(key for key in _SIZES if key.endswith(("_size", "_heads", "_layers"))))


def random_model(config: dict[str, Any], seed: int = 0, std: float = 0.35) -> PreTrainedModel:
    """The shape of ``config`` in transformers; with the default ``std`` thresholds decide something."""
    config_class, model_class = _IN_TRANSFORMERS[config["architectures"][0]]
    model: PreTrainedModel = model_class(
        config_class(
            **{key: config[key] for key in _SHAPE_KEYS if key in config},
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            tie_word_embeddings=config["tie_word_embeddings"],
            eos_token_id=EOS,
        )
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        mean, spread = (0.0, std) if parameter.ndim == 2 else (float("norm" in name), 0.2)
        torch.nn.init.normal_(parameter, mean, spread, generator=generator)
    return model.eval()


def write_checkpoint(directory: Path, config: dict[str, Any], model: PreTrainedModel) -> None:
    """``config.json`` and the weights; a tied head is not stored."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def build(directory: Path, name: str, seed: int = 0, std: float = 0.35, **changes: Any) -> PreTrainedModel:
    """Writes a checkpoint, ``changes`` in its ``config.json``, and returns its reference."""
    config = CONFIGS[name] | changes
    model = random_model(config, seed, std)
    write_checkpoint(directory, config, model)
    return model
