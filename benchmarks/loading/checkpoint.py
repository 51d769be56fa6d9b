"""Writes a large random checkpoint in the layout of Dream, or of SDAR with experts, one shard in memory at a time."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def write_random_checkpoint(
    directory: Path,
    *,
    layers: int,
    hidden_size: int = 1536,
    intermediate_size: int = 8960,
    vocab_size: int = 151_936,
    shards: int = 5,
    dtype: str = "bfloat16",
    experts: int = 0,
    seed: int = 0,
) -> Path:
    """Heads are 64 wide, four queries to a key. The tensors go into about ``shards`` files, as they come.

    Each of ``experts`` is ``intermediate_size`` wide; without them it is Dream's layout.
    """
    heads = hidden_size // 64
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 4,
        "vocab_size": vocab_size,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "mask_token_id": vocab_size - 1,
        "eos_token_id": vocab_size - 2,
    }
    if experts:
        config |= {
            "architectures": ["SDARMoeForCausalLM"],
            "model_type": "sdar_moe",
            "head_dim": 64,
            "moe_intermediate_size": intermediate_size,
            "norm_topk_prob": True,
            "num_experts": experts,
            "num_experts_per_tok": min(experts, 8),
        }
    shapes = dict(_shapes(layers, hidden_size, intermediate_size, vocab_size, experts))
    width = DTYPES[dtype].itemsize
    total = sum(math.prod(shape) for shape in shapes.values()) * width
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    generator = torch.Generator().manual_seed(seed)
    files: dict[str, str] = {}
    part: dict[str, torch.Tensor] = {}

    def close() -> None:
        file = f"model-{len(set(files.values())) + 1:05d}.safetensors"
        save_file(part, directory / file, metadata={"format": "pt"})
        files.update(dict.fromkeys(part, file))
        part.clear()

    for name, shape in shapes.items():
        held = sum(tensor.nbytes for tensor in part.values())
        if part and held + math.prod(shape) * width > 1.1 * total / shards:
            close()
        part[name] = torch.randn(shape, generator=generator).mul_(0.02).to(DTYPES[dtype])
    close()
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def _shapes(
    layers: int, hidden: int, intermediate: int, vocab: int, experts: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocab, hidden)
    for index in range(layers):
        layer = f"model.layers.{index}"
        for name, width in (("q", hidden), ("k", hidden // 4), ("v", hidden // 4)):
            yield f"{layer}.self_attn.{name}_proj.weight", (width, hidden)
            if not experts:
                yield f"{layer}.self_attn.{name}_proj.bias", (width,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        if experts:
            yield f"{layer}.mlp.gate.weight", (experts, hidden)
            yield f"{layer}.self_attn.q_norm.weight", (64,)
            yield f"{layer}.self_attn.k_norm.weight", (64,)
        for owner in [f"experts.{expert}." for expert in range(experts)] or [""]:
            yield f"{layer}.mlp.{owner}gate_proj.weight", (intermediate, hidden)
            yield f"{layer}.mlp.{owner}up_proj.weight", (intermediate, hidden)
            yield f"{layer}.mlp.{owner}down_proj.weight", (hidden, intermediate)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)
