"""Attention of segments with a Triton kernel of our own: any page size, head sizes up to 256, fp16, bf16 and fp32."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from triton import next_power_of_2

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import PART, Indices, Segment
from cdlm.model.kernels.attention import join_parts, paged_attention
from cdlm.model.uploads import Place

# The keys of a segment with at most so many queries are split over programs that read PART keys each.
SHARING = 64
# Query heads times queries per tile: fixed, since another size may sum in another order.
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Padding:
    """Shapes that do not depend on how much the segments see: pages of a table, and parts of shared keys."""

    pages: int
    parts: int


class TritonAttention(PagedAttention):
    """Every segment is an entry of one launch, be it causal or not.

    Args:
        padding: fixes the shapes of all that is placed, given the segments' lengths.
    """

    def __init__(
        self,
        cache: PagedCache,
        segments: list[Segment],
        place: Place | None = None,
        padding: Padding | None = None,
    ) -> None:
        super().__init__(cache, segments, place)
        lengths = np.array([each.length for each in segments])
        visible = np.array([each.visible for each in segments])
        # Depends on the segment alone: the result of a row must not depend on the rest of the batch.
        sharing = (lengths <= SHARING) & (visible > PART)
        rows = np.cumsum(lengths * sharing) - lengths * sharing if padding is None else self.firsts
        self._parts = int((-(-visible[sharing] // PART)).max(initial=1))
        tables = self.tables
        if padding is not None:
            assert self._parts <= padding.parts
            self._parts = padding.parts
            tables = np.pad(tables, ((0, 0), (0, padding.pages - tables.shape[1])))
        starts, causal = [each.start for each in segments], [each.causal for each in segments]
        described = np.stack((self.firsts, lengths, starts, visible, causal, np.where(sharing, rows, -1)), axis=1)
        self._segments = self._place(described.astype(np.int32))
        self._branched = any(each.branches for each in segments)
        self._sees = self._segments  # Not read.
        if self._branched:
            self._sees = self._place(np.concatenate([each.sees() for each in segments]).astype(np.int32))
        self._tables = self._place(tables)
        self._group = max(1, cache.query_heads // cache.keys[0].shape[1])
        self._rows = max(_ROWS, next_power_of_2(self._group))
        self._tiles = self._place(_tiles(lengths, self._rows // self._group))
        self._shared: tuple[Tensor, Tensor] | None = None
        if self._parts > 1:
            mine = np.repeat(sharing, lengths) if padding is None else np.ones(lengths.sum(), dtype=bool)
            seen = np.repeat(np.where(sharing, visible, 0), lengths)[mine]
            self._shared = self._place(np.flatnonzero(mine).astype(np.int32)), self._place(seen.astype(np.int32))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads, dim = query.shape[1:]
        wide = dim > 128 or query.element_size() > 2  # The tile must fit into the shared memory of an SM.
        query, out = query.contiguous(), query.new_empty(query.shape)
        shared = 0 if self._shared is None else len(self._shared[0])
        shared_rows = shared * heads
        sums = query.new_empty((self._parts, shared_rows, dim), dtype=torch.float32)
        maxima, totals = query.new_empty((2, self._parts, shared_rows), dtype=torch.float32)
        paged_attention[len(self._tiles), keys.shape[1], self._parts](
            out, sums, maxima, totals, query, keys, values, self._tiles, self._segments, self._tables, self._sees,
            dim**-0.5, query.stride(0), keys.stride(0), self._tables.stride(0), shared_rows,
            GROUP=self._group, HEAD_DIM=dim, WIDTH=max(16, next_power_of_2(dim)), PAGE=self.cache.page_size,
            ROWS=self._rows, KEYS=32 if wide else 64, PART=PART, BRANCHED=self._branched, num_stages=2,
            WIDEN=query.device.type == "cpu" and query.dtype == torch.bfloat16,
        )  # fmt: skip
        if self._shared is not None:
            join_parts[shared, heads](
                out, sums, maxima, totals, *self._shared, shared_rows,
                HEADS=heads, HEAD_DIM=dim, WIDTH=next_power_of_2(dim), PART=PART, num_warps=1,
            )  # fmt: skip
        return out


def _tiles(lengths: Indices, queries: int) -> Indices:
    """[tiles, 2] int32: the segment and first query of each tile of ``queries`` queries."""
    counts = -(-lengths // queries)
    segment = np.repeat(np.arange(len(lengths)), counts)
    inside = np.arange(len(segment)) - (np.cumsum(counts) - counts)[segment]
    return np.stack((segment, inside * queries), axis=1).astype(np.int32)
