"""Attention of segments with a Triton kernel of our own: any page size, head sizes up to 256, fp16, bf16 and fp32."""

import numpy as np
import torch
from torch import Tensor
from triton import next_power_of_2

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Indices, Segment
from cdlm.model.kernels.attention import join_parts, paged_attention

# The keys of a segment with at most SHARING queries are split over programs that read PART keys each.
PART, SHARING = 1024, 64
# Query heads times queries per tile: fixed, since another size may sum in another order.
_ROWS = 64


class TritonAttention(PagedAttention):
    """One kernel launch for all segments, causal or not."""

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        super().__init__(cache, segments)
        lengths = np.array([each.length for each in segments])
        visible = np.array([each.visible for each in segments])
        # Depends on the segment alone: the result of a row must not depend on the rest of the batch.
        sharing = (lengths <= SHARING) & (visible > PART)
        rows = np.cumsum(lengths * sharing) - lengths * sharing
        self._parts = int((-(-visible[sharing] // PART)).max(initial=1))
        self._shared_tokens = int(lengths[sharing].sum())
        starts, causal = [each.start for each in segments], [each.causal for each in segments]
        described = np.stack((self.firsts, lengths, starts, visible, causal, np.where(sharing, rows, -1)), axis=1)
        self._segments = self._place(described.astype(np.int32))
        self._tables = self._place(self.tables)
        self._group = max(1, cache.query_heads // cache.keys[0].shape[1])
        self._rows = max(_ROWS, next_power_of_2(self._group))
        self._tiles = self._place(_tiles(lengths, self._rows // self._group))
        self._shared: tuple[Tensor, Tensor] | None = None
        if sharing.any():
            mine = np.repeat(sharing, lengths)
            tokens = np.flatnonzero(mine).astype(np.int32)
            self._shared = self._place(tokens), self._place(np.repeat(visible, lengths)[mine].astype(np.int32))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads, dim = query.shape[1:]
        wide = dim > 128 or query.element_size() > 2  # The tile must fit into the shared memory of an SM.
        query, out = query.contiguous(), query.new_empty(query.shape)
        shared_rows = self._shared_tokens * heads
        sums = query.new_empty((self._parts, shared_rows, dim), dtype=torch.float32)
        maxima, totals = query.new_empty((2, self._parts, shared_rows), dtype=torch.float32)
        paged_attention[len(self._tiles), keys.shape[1], self._parts](
            out, sums, maxima, totals, query, keys, values, self._tiles, self._segments, self._tables,
            dim**-0.5, query.stride(0), keys.stride(0), self._tables.stride(0), shared_rows,
            GROUP=self._group, HEAD_DIM=dim, WIDTH=max(16, next_power_of_2(dim)), PAGE=self.cache.page_size,
            ROWS=self._rows, KEYS=32 if wide else 64, PART=PART, num_stages=2,
            WIDEN=query.device.type == "cpu" and query.dtype == torch.bfloat16,
        )  # fmt: skip
        if self._shared is not None:
            join_parts[self._shared_tokens, heads](
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
