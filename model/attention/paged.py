"""Attention of segments over the page pool: what its implementations share."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import Indices, Segment


class PagedAttention(ABC):
    """The ``Attention`` of one forward: writes each layer's keys and values to the pool, then reads.

    Writing first is what lets a commit and the block after it share a forward: the new block reads the
    clean keys that the same layer has just written.

    Args:
        cache: the pool.
        segments: how the forward's T flat tokens are cut, in order.

    Attributes:
        positions: [T] int64, position of each token in its request.
        slots: [T] int64, where in the pool each token's key and value are written.
    """

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        self.cache, self.segments = cache, segments
        self.positions = self._place(np.concatenate([np.arange(each.start, each.end) for each in segments]))
        tables: dict[int, Indices] = {}  # Mostly the segments of a request see the beginnings of one list of slots.
        for each in sorted(segments, key=lambda segment: -segment.visible):
            if id(each.pages) not in tables:
                tables[id(each.pages)] = each.slots(cache.page_size)
        self._seen = [tables[id(each.pages)][: each.visible] for each in segments]
        own = [slots[each.start : each.end] for slots, each in zip(self._seen, segments, strict=True)]
        self.slots = self._place(np.concatenate(own))

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, heads, head_dim], key and value [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        self.write(layer, key, value)
        return self.attend(query, self.cache.keys[layer], self.cache.values[layer])

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keys and values of the tokens, [T, kv_heads, head_dim], go to the pool."""
        self.cache.keys[layer].index_copy_(0, self.slots, key)
        self.cache.values[layer].index_copy_(0, self.slots, value)

    @abstractmethod
    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Every segment's queries over the keys it sees.

        query [T, heads, head_dim], keys and values [slots of the pool, kv_heads, head_dim] -> like query.
        """

    def _place(self, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
        """An array on the pool's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.cache.keys.device)


# Lays segments out over a pool; mostly the implementation itself.
AttentionFactory = Callable[[PagedCache, list[Segment]], PagedAttention]
