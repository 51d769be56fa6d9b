"""Attention of segments on PyTorch SDPA: segments of similar size are padded to rectangles. Runs everywhere."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.attention.cache import PagedCache
from model.attention.paged import PagedAttention
from model.segments import Indices, Segment


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments of similar size as one rectangle.

    Attributes:
        shape: (segments, queries) of the rectangle.
        key_slots: [segments * keys] int64, where in the pool each key lies; padding repeats slot 0.
        key_range: the same as a slice where one segment's keys lie side by side, so that nothing need be copied.
        mask: [segments, 1, 1 or queries, keys] bool, true = sees; ``None`` when nothing is padded or causal.
        query_index: [segments * queries] int64, the flat token each query is; padding repeats a token.
        flat_range: the same as a slice where the tokens are consecutive and none is padding.
        real: int64, which of these queries are no padding.
        flat: same length as ``real``, the flat token of each.
    """

    shape: tuple[int, int]
    key_slots: Tensor
    key_range: slice | None
    mask: Tensor | None
    query_index: Tensor
    flat_range: slice | None
    real: Tensor
    flat: Tensor


class SdpaAttention(PagedAttention):
    """Gathers each rectangle's keys and values from the pool and attends at once."""

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        super().__init__(cache, segments)
        offsets = np.cumsum([0] + [segment.length for segment in segments])
        groups: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        for index, segment in enumerate(segments):
            groups[_size_class(segment.length), _size_class(segment.visible), segment.causal].append(index)
        self.groups = [self._group([segments[i] for i in members], offsets[members]) for members in groups.values()]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        for group in self.groups:
            segments, queries = group.shape
            rows = query.index_select(0, group.query_index) if group.flat_range is None else query[group.flat_range]
            attended = scaled_dot_product_attention(
                rows.view(segments, queries, *rows.shape[1:]).transpose(1, 2),  # [segments, heads, queries, head_dim]
                _gather(keys, group).transpose(1, 2),
                _gather(values, group).transpose(1, 2),
                attn_mask=group.mask,
                enable_gqa=query.shape[1] != keys.shape[1],
            ).transpose(1, 2)
            if group.flat_range is not None and segments * queries == len(query):
                return attended.flatten(0, 1)
            if group.flat_range is None:
                out[group.flat] = attended.flatten(0, 1)[group.real]
            else:
                out[group.flat_range] = attended.flatten(0, 1)
        return out

    def _group(self, segments: list[Segment], offsets: Indices) -> SegmentGroup:
        lengths = np.array([segment.length for segment in segments])[:, None]
        visible = np.array([segment.visible for segment in segments])[:, None]
        query = np.arange(int(lengths.max()))[None]  # [1, queries]
        key = np.arange(int(visible.max()))[None]  # [1, keys]
        key_slots = np.zeros((len(segments), key.shape[1]), dtype=np.int64)
        for line, segment in zip(key_slots, segments, strict=True):
            line[: segment.visible] = segment.slots(self.cache.page_size)
        sees = (key < visible)[:, None, None, :]  # [segments, 1, 1, keys]
        if segments[0].causal:
            starts = np.array([segment.start for segment in segments])[:, None]
            sees = sees & (key[:, None, :] <= (starts + query)[:, :, None])[:, None]
        query_index = (offsets[:, None] + np.minimum(query, lengths - 1)).ravel()
        real = (query < lengths).ravel().nonzero()[0]
        return SegmentGroup(
            shape=(len(segments), query.shape[1]),
            key_slots=self._place(key_slots.ravel()),
            key_range=_as_slice(key_slots[0]) if len(segments) == 1 else None,
            mask=None if bool(sees.all()) else self._place(sees),
            query_index=self._place(query_index),
            flat_range=_as_slice(query_index),
            real=self._place(real),
            flat=self._place(query_index[real]),
        )


def _gather(stored: Tensor, group: SegmentGroup) -> Tensor:
    """stored [slots, kv_heads, head_dim] -> [segments, keys, kv_heads, head_dim] of a group."""
    if group.key_range is not None:
        return stored[None, group.key_range]
    return stored.index_select(0, group.key_slots).view(group.shape[0], -1, *stored.shape[1:])


def _size_class(size: int) -> int:
    """Powers of two: padding never more than doubles a side."""
    return (size - 1).bit_length()


def _as_slice(indices: Indices) -> slice | None:
    """The indices as a slice if each is one more than the one before."""
    first, count = int(indices[0]), len(indices)
    return slice(first, first + count) if bool((np.diff(indices) == 1).all()) else None
