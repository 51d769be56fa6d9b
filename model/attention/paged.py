"""Attention of segments over the page pool: the base class of all implementations."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import Segment
from cdlm.model.uploads import Place, place_on


class PagedAttention(ABC):
    """The ``Attention`` of one forward: writes each layer's keys and values to the pool, then attends.

    Because it writes first, the commit of a block and the first step of the next block can share a forward: the next
    block reads the committed keys that the same layer has just written.

    Args:
        cache: the pool.
        segments: how the forward's T flat tokens are cut, in order.
        place: brings arrays to the device; without it each is copied by itself.

    Attributes:
        positions: [T] int64, position of each token in its request.
        slots: [T] int64, where in the pool each token's key and value are written.
        firsts: [segments] int64 on the host, the first flat token of each.
        tables: [segments, pages] int32 on the host, the pages that each sees; 0 after the last one.
    """

    def __init__(self, cache: PagedCache, segments: list[Segment], place: Place | None = None) -> None:
        self.cache, self.segments = cache, segments
        self._place = place or place_on(cache.keys.device)
        lengths = np.array([each.length for each in segments])
        starts = np.array([each.start for each in segments])
        self.firsts = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(segments)), lengths)
        kept = np.arange(lengths.sum()) + (starts - self.firsts)[owner]  # The position whose slot each token takes.
        self.tables = _tables(segments, cache.page_size)
        pages = self.tables[owner, kept // cache.page_size].astype(np.int64)
        positions = kept
        if any(each.branches for each in segments):
            positions = np.concatenate([each.positions for each in segments])
        self.positions = self._place(positions)
        self.slots = self._place(pages * cache.page_size + kept % cache.page_size)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, heads, head_dim], key and value [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        self.write(layer, key, value)
        return self.attend(query, self.cache.keys[layer], self.cache.values[layer])

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Writes the tokens' keys and values, [T, kv_heads, head_dim], to the pool."""
        self.cache.keys[layer].index_copy_(0, self.slots, key)
        self.cache.values[layer].index_copy_(0, self.slots, value)

    @abstractmethod
    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attends each segment's queries to the keys that the segment sees.

        query [T, heads, head_dim], keys and values [slots of the pool, kv_heads, head_dim] -> like query.
        """


def _tables(segments: list[Segment], page_size: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    counts = [-(-each.visible // page_size) for each in segments]
    tables = np.zeros((len(segments), max(counts)), dtype=np.int32)
    for line, each, count in zip(tables, segments, counts, strict=True):
        line[:count] = each.pages[:count]
    return tables


class AttentionFactory(Protocol):
    """Lays segments out over a pool; mostly the implementation itself."""

    def __call__(self, cache: PagedCache, segments: list[Segment], place: Place | None = None) -> PagedAttention:
        """``place`` brings arrays to the device; without it each is copied by itself."""
        ...
