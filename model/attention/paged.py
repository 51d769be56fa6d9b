"""Attention of segments over the page pool: what its implementations share."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import Segment


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
        firsts: [segments] int64 on the host, the first flat token of each.
        tables: [segments, pages] int32 on the host, the pages that each sees; 0 behind its last one.
    """

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        self.cache, self.segments = cache, segments
        lengths = np.array([each.length for each in segments])
        starts = np.array([each.start for each in segments])
        self.firsts = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(segments)), lengths)
        positions = np.arange(lengths.sum()) + (starts - self.firsts)[owner]
        self.tables = _tables(segments, cache.page_size)
        pages = self.tables[owner, positions // cache.page_size].astype(np.int64)
        self.positions = self._place(positions)
        self.slots = self._place(pages * cache.page_size + positions % cache.page_size)

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


def _tables(segments: list[Segment], page_size: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    counts = [-(-each.visible // page_size) for each in segments]
    tables = np.zeros((len(segments), max(counts)), dtype=np.int32)
    for line, each, count in zip(tables, segments, counts, strict=True):
        line[:count] = each.pages[:count]
    return tables


# Lays segments out over a pool; mostly the implementation itself.
AttentionFactory = Callable[[PagedCache, list[Segment]], PagedAttention]
