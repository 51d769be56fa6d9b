"""Tiny random checkpoints with experts under the published keys, and what they compute, written from the definitions.

``Llada2`` shares no code with ``model``: one sequence, no cache, one expert after the other.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

VOCAB, EOS, MASK = 96, 90, 95

LLADA2_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "embedding_dropout": 0.0,
    "eos_token_id": EOS,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "max_window_layers": 28,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 24,
    "moe_router_enable_expert_bias": True,
    "n_group": 4,
    "norm_head": False,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "output_router_logits": False,
    "pad_token_id": EOS,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 6e5,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "topk_group": 2,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": True,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}

SDAR_MOE_CONFIG: dict[str, Any] = {
    "architectures": ["SDARMoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_sdar_moe.SDARMoeConfig",
        "AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM",
    },
    "decoder_sparse_step": 1,
    "eos_token_id": EOS,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "mlp_only_layers": [],
    "model_type": "sdar_moe",
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}


_QWEN3_MOE_KEYS = (
    "decoder_sparse_step", "head_dim", "hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings",
    "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "num_attention_heads", "num_experts",
    "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings",
    "vocab_size",
)  # fmt: skip


def build_llada2(directory: Path, seed: int = 0, std: float = 0.35, **changes: Any) -> "Llada2":
    """Writes a checkpoint, ``changes`` in its ``config.json``, and returns what it computes."""
    config = LLADA2_CONFIG | changes
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in _llada2_shapes(config).items():
        mean, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.2 if len(shape) == 1 else std)
        tensors[name] = torch.randn(shape, generator=generator) * spread + mean
    _write(directory, config, tensors)
    return Llada2(config, tensors)


def build_sdar_moe(directory: Path, seed: int = 0, std: float = 0.35, **changes: Any) -> Qwen3MoeForCausalLM:
    """Writes a checkpoint, ``changes`` in its ``config.json``, and returns its weights in transformers' Qwen3-MoE."""
    config = SDAR_MOE_CONFIG | changes
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    kept = {key: config[key] for key in _QWEN3_MOE_KEYS} | {"experts_implementation": "eager"}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**kept, rope_parameters=rope))
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        mean, spread = (1.0, 0.2) if "norm" in name else (0.0, std)
        torch.nn.init.normal_(parameter, mean, spread, generator=generator)
        values = parameter.detach()
        if name.endswith("experts.gate_up_proj"):
            owner = name.removesuffix("gate_up_proj")
            for expert, (gate, up) in enumerate(each.chunk(2) for each in values):
                tensors[f"{owner}{expert}.gate_proj.weight"] = gate.clone()
                tensors[f"{owner}{expert}.up_proj.weight"] = up.clone()
        elif name.endswith("experts.down_proj"):
            owner = name.removesuffix("down_proj")
            tensors |= {f"{owner}{expert}.down_proj.weight": each.clone() for expert, each in enumerate(values)}
        else:
            tensors[name] = values
    _write(directory, config, tensors)
    return model.eval()


class Llada2:
    """The published network: sigmoid router over groups of experts, a shared expert, a part of each head turned."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors

    def logits(self, ids: Tensor, sees: Tensor) -> Tensor:
        """ids [n], sees [n, n] bool (row = query) -> logits [n, vocabulary]."""
        x = self.tensors["model.word_embeddings.weight"][ids]
        for index in range(self.config["num_hidden_layers"]):
            x = x + self._attend(self._norm(x, f"layers.{index}.input_layernorm"), index, sees)
            y = self._norm(x, f"layers.{index}.post_attention_layernorm")
            dense = index < self.config["first_k_dense_replace"]
            x = x + (self._gated(y, f"layers.{index}.mlp") if dense else self._experts(y, f"layers.{index}.mlp"))
        head = "model.word_embeddings" if self.config["tie_word_embeddings"] else "lm_head"
        return self._norm(x, "norm") @ self.tensors[f"{head}.weight"].T

    def weighed(self, y: Tensor, layer: str) -> list[dict[int, float]]:
        """Of each token of y [n, hidden], the experts and what each weighs."""
        config = self.config
        scores = torch.sigmoid(y @ self.tensors[f"model.{layer}.gate.weight"].T)
        biased = config["moe_router_enable_expert_bias"]
        preferences = scores + self.tensors[f"model.{layer}.gate.expert_bias"] if biased else scores
        size = config["num_experts"] // config["n_group"]
        found = []
        for score, preferred in zip(scores.tolist(), preferences.tolist(), strict=True):
            groups = [range(first, first + size) for first in range(0, config["num_experts"], size)]
            groups.sort(key=lambda group: -sum(sorted(preferred[group.start : group.stop])[-2:]))
            allowed = [each for group in groups[: config["topk_group"]] for each in group]
            best = sorted(allowed, key=lambda each: -preferred[each])[: config["num_experts_per_tok"]]
            total = sum(score[each] for each in best) + 1e-20
            found.append({each: score[each] / total * config["routed_scaling_factor"] for each in best})
        return found

    def _experts(self, y: Tensor, layer: str) -> Tensor:
        out, weighed = torch.zeros_like(y), self.weighed(y, layer)
        for expert in range(self.config["num_experts"]):
            rows = [row for row, weights in enumerate(weighed) if expert in weights]
            weights = torch.tensor([weighed[row][expert] for row in rows])
            out[rows] += weights[:, None] * self._gated(y[rows], f"{layer}.experts.{expert}")
        return out + self._gated(y, f"{layer}.shared_experts") if self.config["num_shared_experts"] else out

    def _attend(self, y: Tensor, index: int, sees: Tensor) -> Tensor:
        config, layer = self.config, f"layers.{index}.attention"
        n, dim, heads, kv_heads = (
            len(y),
            config["head_dim"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
        )
        joined = (y @ self.tensors[f"model.{layer}.query_key_value.weight"].T).view(n, heads + 2 * kv_heads, dim)
        queries = self._turned(self._norm(joined[:, :heads], f"{layer}.query_layernorm"))
        keys = self._turned(self._norm(joined[:, heads : heads + kv_heads], f"{layer}.key_layernorm"))
        values = joined[:, heads + kv_heads :]
        outs = []
        for head in range(heads):
            own = head // (heads // kv_heads)
            scores = queries[:, head] @ keys[:, own].T / dim**0.5
            outs.append(scores.masked_fill(~sees, float("-inf")).softmax(-1) @ values[:, own])
        return torch.cat(outs, dim=-1) @ self.tensors[f"model.{layer}.dense.weight"].T

    def _turned(self, x: Tensor) -> Tensor:
        """x [n, heads, head_dim]: pairs (i, i + r / 2) of the first r dimensions turn."""
        turned = int(self.config["head_dim"] * self.config["partial_rotary_factor"])
        half = turned // 2
        pairs = torch.arange(half, dtype=torch.float32)
        angle = torch.arange(len(x), dtype=torch.float32)[:, None, None] * self.config["rope_theta"] ** (-pairs / half)
        low, high, rest = x[..., :half], x[..., half:turned], x[..., turned:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((low * cos - high * sin, high * cos + low * sin, rest), dim=-1)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]).rsqrt()
        return x * scale * self.tensors[f"model.{name}.weight"]

    def _gated(self, y: Tensor, name: str) -> Tensor:
        gate, up, down = (self.tensors[f"model.{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        opened = y @ gate.T
        return (opened * opened.sigmoid() * (y @ up.T)) @ down.T


def _llada2_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, dim, vocab = config["hidden_size"], config["head_dim"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.word_embeddings.weight": (vocab, hidden)}

    def feed_forward(name: str, width: int) -> None:
        shapes[f"{name}.gate_proj.weight"] = shapes[f"{name}.up_proj.weight"] = (width, hidden)
        shapes[f"{name}.down_proj.weight"] = (hidden, width)

    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.attention.query_key_value.weight"] = ((heads + 2 * kv_heads) * dim, hidden)
        shapes[f"{layer}.attention.query_layernorm.weight"] = (dim,)
        shapes[f"{layer}.attention.key_layernorm.weight"] = (dim,)
        shapes[f"{layer}.attention.dense.weight"] = (hidden, heads * dim)
        if index < config["first_k_dense_replace"]:
            feed_forward(f"{layer}.mlp", config["intermediate_size"])
            continue
        shapes[f"{layer}.mlp.gate.weight"] = (config["num_experts"], hidden)
        if config["moe_router_enable_expert_bias"]:
            shapes[f"{layer}.mlp.gate.expert_bias"] = (config["num_experts"],)
        for expert in range(config["num_experts"]):
            feed_forward(f"{layer}.mlp.experts.{expert}", config["moe_intermediate_size"])
        if config["num_shared_experts"]:
            feed_forward(f"{layer}.mlp.shared_experts", config["moe_intermediate_size"] * config["num_shared_experts"])
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _write(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
