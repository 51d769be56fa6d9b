"""Attention of segments with a Triton kernel of our own: any page size, head sizes up to 256, fp16, bf16 and fp32."""

import numpy as np
import torch
from torch import Tensor
from triton import next_power_of_2

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.kernels.paged import paged_attention
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Segment

# Keys that one program reads where a segment of at most so many queries shares its keys among several.
PART, SHARING = 1024, 64
# Query heads times queries of a tile: fixed, since another size may add up in another order.
_ROWS = 64


class TritonAttention(PagedAttention):
    """Every segment is an entry of one launch, be it causal or not."""

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        super().__init__(cache, segments)
        # Whether keys are shared depends on the segment alone, so that no row's result depends on its neighbours.
        sharing = [each.length <= SHARING and each.visible > PART for each in segments]
        parts = [-(-each.visible // PART) for each, shared in zip(segments, sharing, strict=True) if shared]
        self._parts = max(parts, default=1)
        firsts = np.cumsum([0] + [each.length for each in segments])
        rows = np.cumsum([0] + [each.length * shared for each, shared in zip(segments, sharing, strict=True)])
        self._shared_tokens = int(rows[-1])
        described = [
            (first, each.length, each.start, each.visible, each.causal, row if shared else -1)
            for first, each, row, shared in zip(firsts, segments, rows, sharing, strict=False)
        ]
        self._segments = self._place(np.array(described, dtype=np.int32))
        used = [each.pages[: -(-each.visible // cache.page_size)] for each in segments]
        tables = np.zeros((len(segments), max(map(len, used))), dtype=np.int32)
        for line, pages in zip(tables, used, strict=True):
            line[: len(pages)] = pages
        self._tables = self._place(tables)
        tokens = [np.arange(first, first + each.length) for first, each in zip(firsts, segments, strict=False)]
        shared_tokens = [mine for mine, shared in zip(tokens, sharing, strict=True) if shared]
        self._shared = self._place(np.concatenate(shared_tokens)) if shared_tokens else None
        self._tiles: dict[int, Tensor] = {}

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        heads, dim = query.shape[1:]
        kv_heads = keys.shape[1]
        group = heads // kv_heads
        rows = max(_ROWS, next_power_of_2(group))
        wide = dim > 128 or query.element_size() > 2  # What is held must fit into an SM.
        query, out = query.contiguous(), query.new_empty(query.shape)
        shared_rows = self._shared_tokens * heads
        # Parts that a row has not keep no weight.
        sums = query.new_zeros((self._parts, shared_rows, dim), dtype=torch.float32)
        maxima = query.new_full((self._parts, shared_rows), float("-inf"), dtype=torch.float32)
        totals = torch.zeros_like(maxima)
        tiles = self._tiles_of(rows // group)
        paged_attention[len(tiles), kv_heads, self._parts](
            out, sums, maxima, totals, query, keys, values, tiles, self._segments, self._tables,
            dim**-0.5, query.stride(0), keys.stride(0), self._tables.stride(0), shared_rows,
            GROUP=group, HEAD_DIM=dim, WIDTH=max(16, next_power_of_2(dim)), PAGE=self.cache.page_size,
            ROWS=rows, KEYS=32 if wide else 64, PART=PART, num_stages=2,
            WIDEN=query.device.type == "cpu" and query.dtype == torch.bfloat16,
        )  # fmt: skip
        if self._shared is not None:
            weights = torch.exp(maxima - maxima.amax(0))
            added = (sums * weights[..., None]).sum(0) / (totals * weights).sum(0)[..., None]
            out.index_copy_(0, self._shared, added.view(-1, heads, dim).to(out.dtype))
        return out

    def _tiles_of(self, queries: int) -> Tensor:
        """[tiles, 2] int32: each tile's segment and first query, with so many queries to a tile."""
        if queries not in self._tiles:
            tiles = [
                (index, begin) for index, each in enumerate(self.segments) for begin in range(0, each.length, queries)
            ]
            self._tiles[queries] = self._place(np.array(tiles, dtype=np.int32))
        return self._tiles[queries]
