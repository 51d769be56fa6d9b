"""The forward of the slow decoder: the whole sequence, layer by layer."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def _speeds(half: int, theta: float, scaling: Any) -> list[float]:
    """How far each pair turns per position: theta^(-i / half) for pair i, in YaRN slower for those that turn slowly."""
    speeds = [theta ** (-pair / half) for pair in range(half)]
    if scaling is None:
        return speeds
    # The pairs, as fractions, that make beta_fast and beta_slow turns within the positions that were known before.
    ends = [
        half * math.log(scaling.positions / (2 * math.pi * turns)) / math.log(theta)
        for turns in (scaling.beta_fast, scaling.beta_slow)
    ]
    first, last = (math.floor(ends[0]), math.ceil(ends[1])) if scaling.truncate else ends
    first, last = max(first, 0), min(last, 2 * half - 1)
    last += 0.001 * (first == last)
    slow = [min(1.0, max(0.0, (pair - first) / (last - first))) for pair in range(half)]
    return [speed * (1 - part + part / scaling.factor) for speed, part in zip(speeds, slow, strict=True)]


@lru_cache(maxsize=1024)
def _turns(n: int, half: int, theta: float, scaling: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines [n, half] of the angles of n positions."""
    angle = torch.arange(n, dtype=torch.float32)[:, None] * torch.tensor(_speeds(half, theta, scaling))
    return angle.cos(), angle.sin()


def _rope(x: Tensor, theta: float, scaling: Any, factor: float) -> Tensor:
    """x [heads, n, head_dim]; of the first d = factor * head_dim, pair (i, i + d / 2) turns by position * its speed.

    The turned part may be stretched.
    """
    n, dim = x.shape[-2], int(x.shape[-1] * factor)
    half = dim // 2
    cos, sin = _turns(n, half, theta, scaling)
    low, high, rest = x[..., :half], x[..., half:dim], x[..., dim:]
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
    return torch.cat((turned if scaling is None else turned * scaling.attention_factor, rest), dim=-1)


def _late(query: Tensor, scaling: Any) -> Tensor:
    """query [heads, n, head_dim], position by position times 1 + beta * log(1 + how often the known ones passed)."""
    if scaling is None:
        return query
    passed = [position // scaling.positions for position in range(query.shape[1])]
    return query * torch.tensor([1 + scaling.query_beta * math.log(1 + times) for times in passed])[:, None]


def _experts(y: Tensor, weights: dict[str, Tensor], name: str, mixture: Any) -> Tensor:
    """The mixture of experts ``name`` for y [n, hidden]: all experts for all tokens, and the chosen ones count."""

    def feed_forward(part: str) -> Tensor:
        gate, up, down = (weights[f"{name}.{part}.{matrix}_proj.weight"] for matrix in ("gate", "up", "down"))
        opened = y @ gate.T
        return (opened * opened.sigmoid() * (y @ up.T)) @ down.T

    shares = []
    bias = weights[f"{name}.router.expert_bias"].tolist() if mixture.biased else [0.0] * mixture.experts
    for logits in y @ weights[f"{name}.router.weight"].T:
        scores = (logits.sigmoid() if mixture.scores == "sigmoid" else logits.exp() / logits.exp().sum()).tolist()
        preferred = [score + more for score, more in zip(scores, bias, strict=True)]
        size = len(scores) // mixture.groups
        groups = [range(first, first + size) for first in range(0, len(scores), size)]
        groups.sort(key=lambda group: -sum(sorted(preferred[group.start : group.stop])[-2:]))
        allowed = [expert for group in groups[: mixture.groups_per_token] for expert in group]
        chosen = sorted(allowed, key=lambda expert: -preferred[expert])[: mixture.experts_per_token]
        whole = sum(scores[expert] for expert in chosen) if mixture.normalized else 1.0
        shares.append([scores[expert] / whole * mixture.scale * (expert in chosen) for expert in range(len(scores))])
    given = [share[:, None] * feed_forward(f"experts.{expert}") for expert, share in enumerate(torch.tensor(shares).T)]
    if mixture.shared_width:
        given.append(feed_forward("shared_experts"))
    return sum(given, start=torch.zeros_like(y))


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
            if name != "v":
                z = _rope(z, shape.rope_theta, shape.rotary_scaling, shape.partial_rotary_factor)
            heads[name] = z
        heads["q"] = _late(heads["q"], shape.rotary_scaling)
        group = shape.num_heads // shape.num_kv_heads
        keys, values = (heads[name].repeat_interleave(group, dim=0) for name in ("k", "v"))
        scores = (heads["q"] @ keys.transpose(1, 2) / shape.head_dim**0.5).masked_fill(~sees, float("-inf"))
        out = (scores.softmax(-1) @ values).transpose(0, 1).reshape(n, -1)
        x = x + product(out, f"layers.{index}.self_attn.o_proj.weight")
        y = _norm(x, layer["post_attention_layernorm.weight"], shape.rms_norm_eps)
        if shape.mixture is not None and index >= shape.mixture.dense_layers:
            x = x + _experts(y, weights, f"layers.{index}.mlp", shape.mixture)
            continue
        gate, up = (product(y, f"layers.{index}.mlp.{name}_proj.weight") for name in ("gate", "up"))
        x = x + product(gate * gate.sigmoid() * up, f"layers.{index}.mlp.down_proj.weight")
    return _norm(x, weights["norm.weight"], shape.rms_norm_eps)


def visibility(length: int, origin: int, prompt_attention: str, block: int, commit_attention: str = "block") -> Tensor:
    """[length, length] bool: whether a query (row) sees a key, pair by pair, from the definition.

    The last block is not committed yet. The caller may change it.
    """
    return _visibility(length, origin, prompt_attention, block, commit_attention).clone()


@lru_cache(maxsize=1024)
def _visibility(length: int, origin: int, prompt_attention: str, block: int, commit_attention: str) -> Tensor:

    def sees(query: int, key: int) -> bool:
        query_block, key_block = (query - origin) // block, (key - origin) // block
        if origin <= query < length - block and commit_attention == "causal":
            return key <= query
        if query >= origin:
            return key < origin or key_block <= query_block
        if key >= origin:
            return False
        if prompt_attention == "full":
            return True
        return key <= query if prompt_attention == "causal" else key_block <= query_block

    return torch.tensor([[sees(query, key) for key in range(length)] for query in range(length)], dtype=torch.bool)
