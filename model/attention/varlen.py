"""Attention of segments on variable-length FlashAttention: one entry per segment, keys read through page tables.

PyTorch's own kernel; CUDA and 16-bit types only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Segment


@dataclass(frozen=True, slots=True)
class _Entries:
    """The causal segments of a forward, or the others: the arguments of one kernel call.

    Attributes:
        tokens: int64, their flat tokens; ``None`` for all tokens of the forward.
        cumulative: [segments + 1] int32, where each segment's queries begin.
        visible: [segments] int32, how many keys each sees.
        tables: [segments, pages] int32.
        window: how many positions a query sees to its left and right; -1 means no limit.
    """

    tokens: Tensor | None
    cumulative: Tensor
    visible: Tensor
    tables: Tensor
    longest: tuple[int, int]
    window: tuple[int, int]


class VarlenAttention(PagedAttention):
    """One kernel call for the causal segments, and one for the others."""

    kernel: Callable[..., object] = staticmethod(varlen_attn)

    def __init__(self, cache: PagedCache, segments: list[Segment]) -> None:
        super().__init__(cache, segments)
        self.entries = [
            self._entries(kind) for kind in (False, True) if any(segment.causal == kind for segment in segments)
        ]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        size = self.cache.page_size
        out = query.new_empty(query.shape)
        for entries in self.entries:
            attended = self.kernel(
                query if entries.tokens is None else query.index_select(0, entries.tokens),
                keys.view(-1, size, *keys.shape[1:]),
                values.view(-1, size, *values.shape[1:]),
                entries.cumulative,
                None,
                *entries.longest,
                window_size=entries.window,
                enable_gqa=query.shape[1] != keys.shape[1],
                seqused_k=entries.visible,
                block_table=entries.tables,
                num_splits=1,  # The result of a row must not depend on the lengths of the other rows.
            )
            assert isinstance(attended, Tensor)
            if entries.tokens is None:
                return attended
            out.index_copy_(0, entries.tokens, attended)
        return out

    def _entries(self, causal: bool) -> _Entries:
        chosen = [segment for segment in self.segments if segment.causal == causal]
        offsets = np.cumsum([0] + [segment.length for segment in self.segments])
        tokens = [
            np.arange(offset, offset + segment.length)
            for offset, segment in zip(offsets, self.segments, strict=False)
            if segment.causal == causal
        ]
        size = self.cache.page_size
        used = [segment.pages[: -(-segment.visible // size)] for segment in chosen]
        tables = np.zeros((len(chosen), max(map(len, used))), dtype=np.int32)
        for line, pages in zip(tables, used, strict=True):
            line[: len(pages)] = pages
        return _Entries(
            tokens=None if len(chosen) == len(self.segments) else self._place(np.concatenate(tokens)),
            cumulative=self._place(np.cumsum([0] + [segment.length for segment in chosen]).astype(np.int32)),
            visible=self._place(np.array([segment.visible for segment in chosen], dtype=np.int32)),
            tables=self._place(tables),
            longest=(max(segment.length for segment in chosen), max(segment.visible for segment in chosen)),
            window=(-1, 0) if causal else (-1, -1),
        )
