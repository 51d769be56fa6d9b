"""CUDA graphs of denoise-only forwards: the launches of all layers are recorded once and replayed.

A graph has one shape and fixed addresses. The rows of a step are therefore padded to a power of two, with rows that
write to an unused page, and each step's layout is copied over the recorded one.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.varlen import VarlenAttention
from cdlm.model.forwards.layout import StepLayout, build_layout
from cdlm.model.row import RowWork

Forward = Callable[[StepLayout], Tensor]


class _Graph:
    """The graph of one shape. Without ``record`` it runs the padded forward itself, for machines without CUDA."""

    def __init__(self, forward: Forward, layout: StepLayout, *, record: bool) -> None:
        self.layout, self.source = layout, layout
        self._forward, self._graph = forward, torch.cuda.CUDAGraph() if record else None
        if self._graph is None:
            return
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # Libraries initialize at their first call, which cannot be recorded.
            for _ in range(2):
                forward(layout)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._out = forward(layout)

    def load(self, layout: StepLayout) -> None:
        """Copies another layout of the same shape into this one."""
        mine, theirs = self.layout.attention, layout.attention
        assert isinstance(mine, VarlenAttention)
        assert isinstance(theirs, VarlenAttention)
        pairs = [(self.layout.rows, layout.rows), (mine.positions, theirs.positions), (mine.slots, theirs.slots)]
        [here], [there] = mine.entries, theirs.entries
        for target, source in [*pairs, (here.visible, there.visible), (here.tables, there.tables)]:
            target.copy_(source)

    def run(self) -> Tensor:
        """Runs the forward for the layout loaded last; the next run overwrites the result."""
        if self._graph is None:
            return self._forward(self.layout)
        self._graph.replay()
        return self._out


class ForwardGraphs:
    """One graph per padded number of rows, each recorded at its first use.

    Args:
        forward: the forward of a layout whose rows are all denoised, without clean tokens.
        cache: the KV cache, whose last page belongs to no request.
        block_length: tokens per row.
        max_model_len: most positions of a request, which set the width of all page tables.
        attention: varlen attention, whose kernel reads lengths from device memory.
        record: whether to record; false without CUDA.
    """

    def __init__(
        self,
        forward: Forward,
        cache: PagedCache,
        *,
        block_length: int,
        max_model_len: int,
        attention: type[VarlenAttention] = VarlenAttention,
        record: bool = True,
    ) -> None:
        self._forward, self._cache, self._attention, self._record = forward, cache, attention, record
        self._block_length = block_length
        self._visible = max_model_len + block_length
        self._scratch = len(cache.keys[0]) // cache.page_size - 1
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, works: list[RowWork], layout: StepLayout) -> Tensor:
        """Returns [rows * block, hidden] for ``works`` with layout ``layout``; the next call overwrites it."""
        rows = 1 << (len(works) - 1).bit_length()
        graph = self._graphs.get(rows)
        if graph is None:
            graph = self._graphs[rows] = _Graph(self._forward, self._padded(works, rows), record=self._record)
        elif graph.source is not layout:
            graph.load(self._padded(works, rows))
        graph.source = layout
        return graph.run()[: len(works) * self._block_length]

    def _padded(self, works: list[RowWork], rows: int) -> StepLayout:
        size = self._cache.page_size
        nobody = RowWork(0, [self._scratch] * -(-self._block_length // size), [], 0)
        layout = build_layout(works + [nobody] * (rows - len(works)), self._block_length, self._cache, self._attention)
        attention = layout.attention
        assert isinstance(attention, VarlenAttention)
        [entries] = attention.entries
        tables = entries.tables.new_zeros((rows, -(-self._visible // size)))
        tables[:, : entries.tables.shape[1]] = entries.tables
        # The host's lengths are upper bounds of the device's.
        attention.entries = [replace(entries, tables=tables, longest=(self._block_length, self._visible))]
        return layout
