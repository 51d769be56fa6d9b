"""CUDA graphs: the launches of all layers are recorded once per shape, and replayed.

A graph has one shape and reads from fixed addresses. So a step's rows, and the blocks that they commit, are padded with
such as belong to nobody, and what says where they lie is copied to where the graph looks for it. Steps of more rows
than the largest shape, and those with parts of prompts, run as they are: there the device is behind the host.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import PART, Segment
from cdlm.model.attention.triton import Padding, TritonAttention
from cdlm.model.forwards.layout import StepLayout, layout_key
from cdlm.model.forwards.shapes import ROWS, Shape, all_shapes, buffer_bytes
from cdlm.model.row import RowWork
from cdlm.model.uploads import Place, Uploads


@dataclass(slots=True)
class _Graph:
    """One shape: where its layout lies, and what was recorded with it.

    Attributes:
        buffer: what ``layout`` consists of; what else a step uploads comes behind its first ``used`` bytes.
        key: whose layout it holds, if another step may have the same.
        sending: whose layout it will hold once the upload is sent.
    """

    buffer: Tensor
    layout: StepLayout
    used: int
    key: tuple[object, ...] | None = None
    sending: tuple[object, ...] | None = None
    recorded: torch.cuda.CUDAGraph | None = None
    out: Tensor | None = None


class ForwardGraphs:
    """Graphs by shape, each recorded when it is first asked for.

    Args:
        forward: of a layout whose rows are all denoised.
        cache: its last page belongs to no request.
        uploads: of the steps.
        block_length: tokens per row.
        scratch: the rows of the canvas's tokens and of its border states that belong to no request.
        max_model_len: positions a request may have; every page table is as wide as that takes.
        record: false runs the padded forward itself, for machines without CUDA.
    """

    def __init__(
        self,
        forward: Callable[[StepLayout], Tensor],
        cache: PagedCache,
        uploads: Uploads,
        *,
        block_length: int,
        scratch: tuple[int, int],
        max_model_len: int,
        record: bool = True,
    ) -> None:
        self._forward, self._cache, self._uploads, self._record = forward, cache, uploads, record
        self._block, self._scratch = block_length, scratch
        self._pages = -(-(max_model_len + block_length) // cache.page_size)
        self._graphs: dict[Shape, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle() if record else None

    def shape(self, works: list[RowWork]) -> Shape | None:
        """The smallest shape that these rows fit into, if any does."""
        commits = sum(bool(work.clean) for work in works)
        plain = all(
            work.denoise
            and work.guidance is None
            and work.blank is None
            and (not work.clean or [len(span.token_ids) for span in work.clean] == [self._block])
            and not any(span.causal for span in work.clean)
            for work in works
        )
        if not plain or len(works) > ROWS[-1]:
            return None
        rows = next(size for size in ROWS if size >= len(works))
        visible = max(work.block_start for work in works) + self._block
        parts = 1 if visible <= PART else 1 << (-(-visible // PART) - 1).bit_length()
        return Shape(rows, next(size for size in (0, -(-rows // 4), rows) if size >= commits), parts)

    def shapes(self) -> list[Shape]:
        """All that may be asked for, the largest first, so that the others fit into the memory that it took."""
        return all_shapes(self._pages * self._cache.page_size, PART)

    def record_all(self) -> int:
        """Records what may be asked for, so that no request waits for it; returns how many there are."""
        shapes = self.shapes()
        for shape in shapes:
            self.begin(shape, [])
            self._uploads.send()
            self.run(shape)
        return len(shapes)

    def begin(self, shape: Shape, works: list[RowWork]) -> StepLayout:
        """Begins the step's upload with its padded layout, whose first rows are those of ``works``."""
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = self._made(shape)
        key = layout_key(works)
        if key is not None and key == graph.key:
            self._uploads.begin(graph.buffer, graph.used)
            return graph.layout
        self._uploads.begin(graph.buffer)
        graph.key, graph.sending = None, key
        self._layout(shape, works, self._uploads.place)
        return graph.layout

    def run(self, shape: Shape) -> Tensor:
        """[rows of the shape * block, hidden]: ``forward`` of what was sent; overwritten by the next run."""
        graph = self._graphs[shape]
        graph.key = graph.sending
        if not self._record:
            return self._forward(graph.layout)
        if graph.recorded is None:
            graph.recorded, graph.out = self._recorded(graph.layout)
        graph.recorded.replay()
        assert graph.out is not None
        return graph.out

    def _made(self, shape: Shape) -> _Graph:
        buffer = self._uploads.buffer(buffer_bytes(shape, self._block, self._pages))
        self._uploads.begin(buffer)
        layout = self._layout(shape, [], self._uploads.place)
        return _Graph(buffer, layout, self._uploads.used)

    def _layout(self, shape: Shape, works: list[RowWork], place: Place) -> StepLayout:
        """``build_layout``, padded."""
        block, page = self._block, self._cache.page_size
        nobody = [len(self._cache.keys[0]) // page - 1] * (2 * -(-block // page))
        committing = [work for work in works if work.clean]
        row_pad, commit_pad = shape.rows - len(works), shape.commits - len(committing)
        tokens, borders = self._scratch
        clean = [Segment(work.clean[0].start, block, work.pages) for work in committing]
        denoised = [Segment(work.block_start, block, work.pages) for work in works]
        segments = clean + [Segment(0, block, nobody)] * commit_pad + denoised + [Segment(0, block, nobody)] * row_pad
        ids = [token for work in committing for token in work.clean[0].token_ids] + [0] * (block * commit_pad)
        rows = [work.row for work in works]

        def indices(values: list[int]) -> Tensor:
            return place(np.array(values, dtype=np.int64))

        return StepLayout(
            rows=indices(rows + [tokens] * row_pad),
            borders=indices(rows + [borders] * row_pad),
            clean_ids=indices(ids) if shape.commits else None,
            clean_count=block * shape.commits,
            attention=TritonAttention(self._cache, segments, place, Padding(self._pages, shape.parts)),
            denoised=None,
            bordered=indices([work.row for work in committing] + [borders] * commit_pad) if shape.commits else None,
            border_tokens=indices([block * end - 1 for end in range(1, shape.commits + 1)]) if shape.commits else None,
            blanks=None,
        )

    def _recorded(self, layout: StepLayout) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # What is compiled or set up at a first call cannot be recorded.
            for _ in range(2):
                self._forward(layout)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = self._forward(layout)
        return graph, out
