"""dLLM-Cache (Liu et al., 2025, arXiv 2506.06295; code: maomaocun/dLLM-Cache).

Every layer keeps the keys, values, attention outputs and feed-forward outputs of all positions. Those of the prompt
are computed every ``prompt_interval`` steps, those of the response every ``response_interval``. In the steps between,
each layer computes the values of the whole response and takes the share of positions whose value differs most, by
cosine similarity, from the cached one; only these get new keys, attention and feed-forward outputs.

The layers are walked through here, since a feed-forward output cannot be cached through ``Attention``. Positions
whose outputs are cached still add them to the residual stream, so every state of the response is there to predict
from; a shifted model needs nothing special.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cdlm.model.network.rope import rotate
from cdlm.model.network.transformer import Layer, Transformer
from cdlm.training.batches.attention import RowAttention
from cdlm.training.decoding.decoder import CachedDecoder, CanvasForward


@dataclass
class AdaptiveCacheDecoder(CachedDecoder):
    """dLLM-Cache, one token per step as published; the defaults are the authors' for LLaDA-Instruct on GSM8K."""

    prompt_interval: int = field(kw_only=True, default=50)
    response_interval: int = field(kw_only=True, default=7)
    ratio: float = field(kw_only=True, default=0.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt_interval < 1 or self.response_interval < 1:
            raise ValueError(f"intervals must be positive, got {self.prompt_interval} and {self.response_interval}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

    def forward(self, prompt_length: int) -> CanvasForward:
        """Makes the forwards for a new group of prompts."""
        intervals, changed = (self.prompt_interval, self.response_interval), int(self.generation_length * self.ratio)
        return _AdaptiveForward(self.model, prompt_length, intervals, max(1, changed))


@dataclass(slots=True)
class _Features:
    """One layer's cache: key, value [rows, L, kv_heads, head_dim]; attention, feed_forward [rows, L, hidden_size]."""

    key: Tensor
    value: Tensor
    attention: Tensor
    feed_forward: Tensor

    @classmethod
    def empty(cls, model: Transformer, rows: int, length: int) -> "_Features":
        like, config = model.embed_tokens.weight, model.config
        key, value = (like.new_empty(rows, length, config.num_kv_heads, config.head_dim) for _ in range(2))
        return cls(key, value, *(like.new_empty(rows, length, config.hidden_size) for _ in range(2)))

    def keep(self, rows: Tensor) -> "_Features":
        return _Features(self.key[rows], self.value[rows], self.attention[rows], self.feed_forward[rows])


class _AdaptiveForward:
    def __init__(self, model: Transformer, prompt_length: int, intervals: tuple[int, int], changed: int) -> None:
        self.model, self.prompt_length = model, prompt_length
        self.intervals, self.changed = intervals, changed
        self.steps = 0  # Of the whole generation, as published: blocks do not reset the intervals.
        self.features: list[_Features] = []
        self.hidden = torch.empty(0)
        self._attend = RowAttention(None)

    def advance(self, ids: Tensor, start: int, step: int) -> int:  # noqa: ARG002
        rows, length = ids.shape
        if not self.features:
            self.features = [_Features.empty(self.model, rows, length) for _ in self.model.layers]
            self.hidden = self.model.embed_tokens.weight.new_empty(rows, length, self.model.config.hidden_size)
        prompt, response = (self.steps % interval == 0 for interval in self.intervals)
        self.steps += 1
        begin = 0 if prompt else self.prompt_length  # Between its refreshes nothing about the prompt changes.
        x = self.model.embed_tokens(ids[:, begin:])
        for index, layer in enumerate(self.model.layers):
            assert isinstance(layer, Layer)
            x = self._layer(x, layer, self.features[index], begin, whole=response)
        self.hidden[:, begin:] = self.model.norm(x)
        return self.prompt_length - begin + (length - self.prompt_length if response else self.changed)

    def _layer(self, x: Tensor, layer: Layer, cache: _Features, begin: int, *, whole: bool) -> Tensor:
        """Runs a layer on x [rows, n, hidden_size], positions from ``begin`` on; recomputes all or the changed ones."""
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        value = attention.v_proj(normed).unflatten(-1, (-1, attention.head_dim))
        positions = self._all(x, begin) if whole else self._changed(value, cache, begin)  # [rows, m]
        here = (torch.arange(len(x), device=x.device)[:, None], positions - begin)
        there = (here[0], positions)
        cache.value[:, begin:] = value
        cos, sin = self.model.rotary(positions)
        query, key = (
            rotate(norm(projection(normed[here]).unflatten(-1, (-1, attention.head_dim))), cos, sin)
            for norm, projection in ((attention.q_norm, attention.q_proj), (attention.k_norm, attention.k_proj))
        )
        scale = self.model.rotary.query_scale(positions)
        if scale is not None:
            query = query * scale[..., None, None].to(query.dtype)
        cache.key[there] = key
        cache.attention[there] = attention.o_proj(self._attend(0, query, cache.key, cache.value).flatten(-2))
        x = x + cache.attention[:, begin:]
        cache.feed_forward[there] = layer.mlp(layer.post_attention_layernorm(x[here]))
        return x + cache.feed_forward[:, begin:]

    def _all(self, x: Tensor, begin: int) -> Tensor:
        """All positions from ``begin`` on, [rows, n] int64."""
        return torch.arange(begin, begin + x.shape[1], device=x.device).expand(len(x), -1)

    def _changed(self, value: Tensor, cache: _Features, begin: int) -> Tensor:
        """The positions to recompute, [rows, m] int64: prompt from ``begin`` on, then those of the least similar
        values.
        """
        new, old = value[:, self.prompt_length - begin :], cache.value[:, self.prompt_length :]
        similarity = cosine_similarity(new.flatten(-2), old.flatten(-2), dim=-1)  # [rows, generation_length]
        changed = similarity.argsort(dim=-1, stable=True)[:, : self.changed] + self.prompt_length
        prompt = torch.arange(begin, self.prompt_length, device=value.device).expand(len(value), -1)
        return torch.cat((prompt, changed), dim=-1)

    def keep(self, rows: Tensor) -> None:
        self.features = [features.keep(rows) for features in self.features]
        self.hidden = self.hidden[rows]
