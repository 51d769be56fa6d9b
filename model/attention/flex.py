"""Attention of segments on PyTorch FlexAttention: the page tables are the block mask, and no key is gathered.

Every segment's queries are padded to whole blocks of the kernel, so that a block of queries belongs to one segment and
its pages are the blocks of keys it sees. Inside a page the mask looks at the position that the slot holds.

Shapes are static: the pool has one size, and the number of query blocks is padded to a power of two with blocks that
see nothing. A kernel is compiled for each power, at the first step of that size.
"""

from functools import cache as once
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.uploads import Place

_QUERIES = 32  # Queries per block.


@once
def _kernel() -> Any:
    # Compiled at its first call: seconds on a CPU, and a C++ compiler is needed there. With dynamic shapes, the C++
    # that torch 2.13 generates does not compile.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, dynamic=False)


class FlexAttention(PagedAttention):
    """One kernel over the whole pool. A page must be a block of keys: a multiple of 16 positions."""

    def __init__(self, cache: PagedCache, segments: list[Segment], place: Place | None = None) -> None:
        if any(segment.branches for segment in segments):
            raise ValueError("FlexAttention knows no branches")
        super().__init__(cache, segments, place)
        size, pages = cache.page_size, len(cache.keys[0]) // cache.page_size
        blocks = [-(-segment.length // _QUERIES) for segment in segments]
        starts = np.cumsum([0, *blocks]) * _QUERIES
        padded_blocks = 1 << (sum(blocks) - 1).bit_length()
        self.padded = padded_blocks * _QUERIES
        real = [start + np.arange(segment.length) for start, segment in zip(starts, segments, strict=False)]
        self.real = self._place(np.concatenate(real))  # [T] int64, where each token lies among the padded queries.
        counts = np.repeat([-(-segment.visible // size) for segment in segments], blocks)
        counts = np.pad(counts, (0, padded_blocks - len(counts)))
        tables = np.zeros((padded_blocks, pages), dtype=np.int32)
        held = np.zeros(pages * size, dtype=np.int64)  # Position in each slot; requests that share a page agree on it.
        last = np.zeros(self.padded, dtype=np.int64)  # The last position that each query sees.
        block = 0
        for segment, count, start in zip(segments, blocks, starts, strict=False):
            used = segment.pages[: -(-segment.visible // size)]
            tables[block : block + count, : len(used)] = used
            held[(np.array(used)[:, None] * size + np.arange(size)).ravel()] = np.arange(len(used) * size)
            seen = np.arange(segment.start, segment.visible) if segment.causal else segment.visible - 1
            last[start : start + segment.length] = seen
            block += count
        held_at, last_seen = self._place(held), self._place(last)

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            return held_at[slot] <= last_seen[query]

        self.mask = BlockMask.from_kv_blocks(
            self._place(counts.astype(np.int32))[None, None],
            self._place(tables)[None, None],
            BLOCK_SIZE=(_QUERIES, size),
            mask_mod=sees,
            seq_lengths=(self.padded, pages * size),
            compute_q_blocks=False,
        )

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        padded = query.new_zeros((self.padded, *query.shape[1:])).index_copy_(0, self.real, query)
        out: Tensor = _kernel()(
            padded.transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            block_mask=self.mask,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return out[0].transpose(0, 1).index_select(0, self.real)
