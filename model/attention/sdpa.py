"""Attention of segments on PyTorch SDPA: segments of similar size are padded to rectangles. Runs everywhere."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Indices, Segment
from cdlm.model.attention.single_queries import as_slice, single_queries
from cdlm.model.uploads import Place

# Segments of at most so many known tokens are joined by their branches, or divided into their rows.
_SHORT = 16


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
class Entry:
    """A line of a rectangle: a segment, or the known tokens of a request together with the branches behind them.

    Attributes:
        queries: [queries] int64, which flat tokens they are.
        slots: [keys] int64, where in the pool the keys lie.
        sees: [queries, 3] int64, see ``Segment.sees``; ``None`` if every query sees all keys.
    """

    queries: Indices
    slots: Indices
    sees: Indices | None


@dataclass(frozen=True, slots=True)
class EntryGroup:
    """Entries of similar size as one rectangle.

    Attributes:
        shape: (entries, queries) of the rectangle.
        keys: [entries * keys] int64, where in the pool each key lies; a slice where one entry's keys lie side by
            side, which avoids a copy. Padding repeats the entry's own last key: padding is masked, but a NaN in
            another request's key would still spoil the product.
        mask: [entries, 1, 1 or queries, keys] bool, true where a query sees a key; ``None`` when nothing is padded or
            causal.
        queries: which flat tokens are the queries.
    """

    shape: tuple[int, int]
    keys: Tensor | slice
    mask: Tensor | None
    queries: ScatteredQueries | slice


class SdpaAttention(PagedAttention):
    """Gathers the keys and values of each rectangle from the pool, and makes one SDPA call per rectangle.

    In bfloat16 and float16 on a CPU, the sums of a query depend on the number of queries and on the padding, and their
    rounding is coarse enough to change tokens. There the queries of short causal segments, and those of branches, are
    products of their own (``single_queries``): a token is the same with other requests beside it, and whether it was
    drafted or not.
    """

    def __init__(self, cache: PagedCache, segments: list[Segment], place: Place | None = None) -> None:
        super().__init__(cache, segments, place)
        coarse = cache.keys.device.type == "cpu" and cache.keys.dtype != torch.float32
        single: list[tuple[Segment, int]] = []
        joint: list[tuple[Segment, int]] = []
        for each, first in zip(segments, self.firsts.tolist(), strict=True):
            short = each.length <= _SHORT and (each.causal or each.visible == each.start + 1)
            (single if coarse and (short or each.branches) else joint).append((each, first))
        heads = cache.query_heads // cache.keys.shape[-2]
        self.single = single_queries(single, cache.page_size, heads, self._place)
        groups: dict[tuple[int, int, bool], list[Entry]] = defaultdict(list)
        for entry in self._entries(joint):
            groups[_size_class(len(entry.queries)), _size_class(len(entry.slots)), entry.sees is None].append(entry)
        self.groups = [self._group(entries) for entries in groups.values()]

    def _entries(self, segments: list[tuple[Segment, int]]) -> list[Entry]:
        """One entry per segment, given with its first flat token; but branches join the known tokens before them, one
        product for both.
        """
        slots: dict[int, Indices] = {}  # Mostly the segments of a request see the beginnings of one list of slots.
        for each, _ in sorted(segments, key=lambda found: -found[0].visible):
            if id(each.pages) not in slots:
                slots[id(each.pages)] = each.slots(self.cache.page_size)
        ends: dict[tuple[int, int], tuple[int, Segment]] = {}  # Page table and end of known tokens -> their entry.
        entries: list[Entry] = []
        for each, first in segments:
            queries, seen = np.arange(first, first + each.length), slots[id(each.pages)][: each.visible]
            place = id(each.pages), each.start
            if each.branches and place in ends:
                together, known = ends[place]
                joined = np.concatenate((entries[together].queries, queries))
                entries[together] = Entry(joined, seen, np.concatenate((known.sees(), each.sees())))
                continue
            if each.length <= _SHORT and not each.ahead:
                ends[id(each.pages), each.end] = len(entries), each
            entries.append(Entry(queries, seen, each.sees() if each.causal or each.branches else None))
        return entries

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out = torch.empty_like(query)
        for each in self.single:
            each.attend(query, keys, values, out)
        for group in self.groups:
            entries, queries = group.shape
            mine = group.queries
            heads = query.shape[1] // keys.shape[1]
            # On CUDA a mask together with fewer key heads is computed in fp32, step by step.
            repeat = heads if query.is_cuda and group.mask is not None else 1
            rows = query[mine] if isinstance(mine, slice) else query.index_select(0, mine.index)
            attended = scaled_dot_product_attention(
                rows.view(entries, queries, *rows.shape[1:]).transpose(1, 2),  # [entries, heads, queries, head_dim]
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

    def _group(self, entries: list[Entry]) -> EntryGroup:
        longest, most = max(len(each.queries) for each in entries), max(len(each.slots) for each in entries)
        if len(entries) == 1:
            key_slots = entries[0].slots
        else:
            key_slots = np.empty((len(entries), most), dtype=np.int64)
            for line, each in zip(key_slots, entries, strict=True):
                line[: len(each.slots)], line[len(each.slots) :] = each.slots, each.slots[-1]
        keys = as_slice(key_slots) if len(entries) == 1 else None
        return EntryGroup(
            shape=(len(entries), longest),
            keys=self._place(key_slots.ravel()) if keys is None else keys,
            mask=self._mask(entries, longest, most),
            queries=self._queries(entries, longest),
        )

    def _mask(self, entries: list[Entry], longest: int, most: int) -> Tensor | None:
        key = np.arange(most)
        if entries[0].sees is not None:
            seen = np.ones((len(entries), longest, 3), dtype=np.int64)  # A padded query sees the first key.
            for line, each in zip(seen, entries, strict=True):
                assert each.sees is not None
                line[: len(each.queries)] = each.sees
            below, first, end = np.moveaxis(seen, 2, 0)[..., None]  # Each [entries, queries, 1].
            sees = ((key < below) | ((key >= first) & (key < end)))[:, None]  # [entries, 1, queries, keys]
        elif all(len(each.slots) == most for each in entries):
            return None
        else:
            sees = (key < np.array([len(each.slots) for each in entries])[:, None])[:, None, None]
        return None if bool(sees.all()) else self._place(sees)

    def _queries(self, entries: list[Entry], longest: int) -> ScatteredQueries | slice:
        if len(entries) == 1 and (one := as_slice(entries[0].queries)) is not None:
            return one
        padded = [np.pad(each.queries, (0, longest - len(each.queries)), mode="edge") for each in entries]
        lengths = np.array([len(each.queries) for each in entries])[:, None]
        index, real = np.concatenate(padded), (np.arange(longest) < lengths).ravel().nonzero()[0]
        return as_slice(index) or ScatteredQueries(self._place(index), self._place(real), self._place(index[real]))


def _gather(stored: Tensor, group: EntryGroup, repeat: int) -> Tensor:
    """stored [slots, kv_heads, head_dim] -> [entries, keys, kv_heads * repeat, head_dim] of a group."""
    if isinstance(group.keys, slice):
        found = stored[None, group.keys]
    else:
        found = stored.index_select(0, group.keys).view(group.shape[0], -1, *stored.shape[1:])
    return found if repeat == 1 else found.repeat_interleave(repeat, dim=2)


def _size_class(size: int) -> int:
    """Rounds up to a power of two: padding at most doubles a side of the rectangle."""
    return (size - 1).bit_length()
