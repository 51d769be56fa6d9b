"""Attention of segments on PyTorch SDPA: segments of similar size are padded to rectangles. Runs everywhere."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Indices, Segment
from cdlm.model.uploads import Place


@dataclass(frozen=True, slots=True)
class ScatteredQueries:
    """Queries of a rectangle that are padded, or not consecutive.

    Attributes:
        index: [segments * queries] int64, the flat token each query is; padding repeats a token.
        real: int64, which of these queries are no padding.
        flat: same length as ``real``, the flat token of each.
    """

    index: Tensor
    real: Tensor
    flat: Tensor


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments of similar size as one rectangle.

    Attributes:
        shape: (segments, queries) of the rectangle.
        keys: [segments * keys] int64, where in the pool each key lies; a slice where one segment's keys lie side by
            side, which avoids a copy. Padding repeats the segment's own last key: padding is masked, but a NaN in
            another request's key would still spoil the product.
        mask: [segments, 1, 1 or queries, keys] bool, true where a query sees a key; ``None`` when nothing is padded or
            causal.
        queries: which flat tokens are the queries.
    """

    shape: tuple[int, int]
    keys: Tensor | slice
    mask: Tensor | None
    queries: ScatteredQueries | slice


class SdpaAttention(PagedAttention):
    """Gathers the keys and values of each rectangle from the pool, and makes one SDPA call per rectangle."""

    def __init__(self, cache: PagedCache, segments: list[Segment], place: Place | None = None) -> None:
        super().__init__(cache, segments, place)
        slots: dict[int, Indices] = {}  # Mostly the segments of a request see the beginnings of one list of slots.
        for each in sorted(segments, key=lambda segment: -segment.visible):
            if id(each.pages) not in slots:
                slots[id(each.pages)] = each.slots(cache.page_size)
        self._seen = [slots[id(each.pages)][: each.visible] for each in segments]
        groups: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        for index, segment in enumerate(segments):
            apart = segment.causal or bool(segment.branches)
            groups[_size_class(segment.length), _size_class(segment.visible), apart].append(index)
        self.groups = [self._group(members, self.firsts[members]) for members in groups.values()]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = query.new_empty(query.shape)
        for group in self.groups:
            segments, queries = group.shape
            mine = group.queries
            heads = query.shape[1] // keys.shape[1]
            # On CUDA a mask together with fewer key heads is computed in fp32, step by step.
            repeat = heads if query.is_cuda and group.mask is not None else 1
            rows = query[mine] if isinstance(mine, slice) else query.index_select(0, mine.index)
            attended = scaled_dot_product_attention(
                rows.view(segments, queries, *rows.shape[1:]).transpose(1, 2),  # [segments, heads, queries, head_dim]
                _gather(keys, group, repeat).transpose(1, 2),
                _gather(values, group, repeat).transpose(1, 2),
                attn_mask=group.mask,
                enable_gqa=heads != repeat,
            ).transpose(1, 2)
            attended = attended.flatten(0, 1)
            if not isinstance(mine, slice):
                out[mine.flat] = attended[mine.real]
            elif len(attended) == len(query):
                return attended
            else:
                out[mine] = attended
        return out

    def _group(self, members: list[int], offsets: Indices) -> SegmentGroup:
        segments, slots = [self.segments[i] for i in members], [self._seen[i] for i in members]
        longest, most = max(each.length for each in segments), max(map(len, slots))
        if len(segments) == 1:
            key_slots = slots[0]
        else:
            key_slots = np.empty((len(segments), most), dtype=np.int64)
            for line, each in zip(key_slots, slots, strict=True):
                line[: len(each)], line[len(each) :] = each, each[-1]
        keys = _as_slice(key_slots) if len(segments) == 1 else None
        return SegmentGroup(
            shape=(len(segments), longest),
            keys=self._place(key_slots.ravel()) if keys is None else keys,
            mask=self._mask(segments, longest, most),
            queries=self._queries(segments, offsets, longest),
        )

    def _mask(self, segments: list[Segment], longest: int, most: int) -> Tensor | None:
        key = np.arange(most)
        if segments[0].causal or segments[0].branches:
            seen = np.ones((len(segments), longest, 3), dtype=np.int64)  # A padded query sees the first key.
            for line, each in zip(seen, segments, strict=True):
                line[: each.length] = each.sees()
            below, first, end = np.moveaxis(seen, 2, 0)[..., None]  # Each [segments, queries, 1].
            sees = ((key < below) | ((key >= first) & (key < end)))[:, None]  # [segments, 1, queries, keys]
        elif all(each.visible == most for each in segments):
            return None
        else:
            sees = (key < np.array([each.visible for each in segments])[:, None])[:, None, None]
        return None if bool(sees.all()) else self._place(sees)

    def _queries(self, segments: list[Segment], offsets: Indices, longest: int) -> ScatteredQueries | slice:
        if len(segments) == 1:
            return slice(int(offsets[0]), int(offsets[0]) + longest)
        lengths = np.array([each.length for each in segments])[:, None]
        query = np.arange(longest)[None]
        index = (offsets[:, None] + np.minimum(query, lengths - 1)).ravel()
        real = (query < lengths).ravel().nonzero()[0]
        return _as_slice(index) or ScatteredQueries(self._place(index), self._place(real), self._place(index[real]))


def _gather(stored: Tensor, group: SegmentGroup, repeat: int) -> Tensor:
    """stored [slots, kv_heads, head_dim] -> [segments, keys, kv_heads * repeat, head_dim] of a group."""
    if isinstance(group.keys, slice):
        found = stored[None, group.keys]
    else:
        found = stored.index_select(0, group.keys).view(group.shape[0], -1, *stored.shape[1:])
    return found if repeat == 1 else found.repeat_interleave(repeat, dim=2)


def _size_class(size: int) -> int:
    """Rounds up to a power of two: padding at most doubles a side of the rectangle."""
    return (size - 1).bit_length()


def _as_slice(indices: Indices) -> slice | None:
    """Returns the indices as a slice if they are consecutive, else ``None``."""
    first, count = int(indices[0]), len(indices)
    return slice(first, first + count) if bool((np.diff(indices) == 1).all()) else None
