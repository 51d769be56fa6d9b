"""The forward of the slow decoder: the whole sequence, layer by layer and head by head."""

from typing import Any

import torch
from torch import Tensor


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _rope(x: Tensor, theta: float) -> Tensor:
    """x [heads, n, head_dim]; the pair (i, i + head_dim / 2) turns by position * theta^(-2i / head_dim)."""
    n, dim = x.shape[-2:]
    half = dim // 2
    angle = torch.arange(n, dtype=torch.float32)[:, None] * theta ** (-torch.arange(half, dtype=torch.float32) / half)
    low, high, cos, sin = x[..., :half], x[..., half:], angle.cos(), angle.sin()
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class _Layer:
    """The weights of one layer by their names in it."""

    def __init__(self, weights: dict[str, Tensor], index: int) -> None:
        self._weights, self._index = weights, index

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[f"layers.{self._index}.{name}"]


def hidden_states(
    weights: dict[str, Tensor],
    shape: Any,
    ids: Tensor,
    sees: Tensor,
    gated: dict[str, Tensor] | None = None,
    first: int = 0,
) -> Tensor:
    """ids [n], sees [n, n] bool (row = query) -> last hidden states [n, hidden].

    ``gated`` are updates of layers' weights, by the names of these, for the rows from ``first`` on.
    """
    n = len(ids)
    masked = (torch.arange(n) >= first)[:, None]

    def product(y: Tensor, name: str) -> Tensor:
        z = y @ weights[name].T
        return z if gated is None or name not in gated else z + masked * (y @ gated[name].T)

    x = weights["embed_tokens.weight"][ids]
    for index in range(shape.num_layers):
        layer = _Layer(weights, index)
        y = _norm(x, layer["input_layernorm.weight"], shape.rms_norm_eps)
        heads = {}
        for name, count in (("q", shape.num_heads), ("k", shape.num_kv_heads), ("v", shape.num_kv_heads)):
            z = product(y, f"layers.{index}.self_attn.{name}_proj.weight")
            if shape.attention_bias:
                z = z + layer[f"self_attn.{name}_proj.bias"]
            z = z.reshape(n, count, shape.head_dim)
            if shape.qk_norm and name != "v":
                z = _norm(z, layer[f"self_attn.{name}_norm.weight"], shape.rms_norm_eps)
            z = z.transpose(0, 1)
            heads[name] = z if name == "v" else _rope(z, shape.rope_theta)
        group = shape.num_heads // shape.num_kv_heads
        outs = []
        for head in range(shape.num_heads):
            scores = heads["q"][head] @ heads["k"][head // group].T / shape.head_dim**0.5
            outs.append(scores.masked_fill(~sees, float("-inf")).softmax(-1) @ heads["v"][head // group])
        x = x + product(torch.cat(outs, dim=-1), f"layers.{index}.self_attn.o_proj.weight")
        y = _norm(x, layer["post_attention_layernorm.weight"], shape.rms_norm_eps)
        gate, up = (product(y, f"layers.{index}.mlp.{name}_proj.weight") for name in ("gate", "up"))
        x = x + product(gate * gate.sigmoid() * up, f"layers.{index}.mlp.down_proj.weight")
    return _norm(x, weights["norm.weight"], shape.rms_norm_eps)


def visibility(length: int, origin: int, prompt_attention: str, block: int) -> Tensor:
    """[length, length] bool: whether a query (row) sees a key, pair by pair, from the definition."""

    def sees(query: int, key: int) -> bool:
        query_block, key_block = (query - origin) // block, (key - origin) // block
        if query >= origin:
            return key < origin or key_block <= query_block
        if key >= origin:
            return False
        if prompt_attention == "full":
            return True
        return key <= query if prompt_attention == "causal" else key_block <= query_block

    return torch.tensor([[sees(query, key) for key in range(length)] for query in range(length)], dtype=torch.bool)
