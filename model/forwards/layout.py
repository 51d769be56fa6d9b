"""Lays out the rows of a step in one forward: flat tokens, segments, and the hidden states that predict."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory, PagedAttention
from cdlm.model.attention.segments import Segment, clean_segments
from cdlm.model.row import RowWork
from cdlm.model.uploads import Place, place_on


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A forward over T = C + D * block tokens: the clean tokens of all rows, then the blocks of D denoised rows.

    A guided row counts as two of the R rows.

    Attributes (R rows in the step):
        rows: [R] int64, index of each row in the canvas.
        borders: [R] int64, index of each row in ``Canvas.border``.
        clean_ids: [C] int64, ids of the clean tokens; ``None`` when C is 0.
        clean_count: C, the number of clean tokens.
        attention: the attention over all T tokens, with their positions; ``None`` when T is 0.
        denoised: [D] int64, which of the R rows are denoised; ``None`` when all are.
        bordered: [rows with clean tokens] int64, index of each in ``Canvas.border``; ``None`` when C is 0.
        border_tokens: shaped like ``bordered``, the flat index of each row's last clean token.
        blanks: int64, which of the D * block tokens are embedded as masks whatever the canvas holds; ``None`` if none.
    """

    rows: Tensor
    borders: Tensor
    clean_ids: Tensor | None
    clean_count: int
    attention: PagedAttention | None
    denoised: Tensor | None
    bordered: Tensor | None
    border_tokens: Tensor | None
    blanks: Tensor | None


def build_layout(
    works: list[RowWork],
    block_length: int,
    cache: PagedCache,
    attention: AttentionFactory,
    canvas_rows: int = 0,
    place: Place | None = None,
) -> StepLayout:
    """Lays out one step.

    Args:
        canvas_rows: rows of the canvas; needed where a row is guided.
        place: brings arrays to the device; without it each is copied by itself.
    """
    bring = place or place_on(cache.keys.device)
    segments: list[Segment] = []
    ids: list[int] = []
    bordered: list[int] = []
    border_tokens: list[int] = []
    border = [work.row + (0 if work.blank is None else canvas_rows) for work in works]
    for index, work in enumerate(works):
        segments += clean_segments(work.clean, work.pages)
        ids += [token for span in work.clean for token in span.token_ids]
        if work.clean:
            bordered.append(border[index])
            border_tokens.append(len(ids) - 1)
    segments += [Segment(work.block_start, block_length, work.pages) for work in works if work.denoise]
    denoised = [index for index, work in enumerate(works) if work.denoise]

    def indices(values: list[int]) -> Tensor:
        return bring(np.array(values, dtype=np.int64))

    rows = indices([work.row for work in works])
    borders = indices(border) if any(work.blank is not None for work in works) else rows
    blanks = [
        index * block_length + offset
        for index, work in enumerate(work for work in works if work.denoise)
        for offset in range(work.blank or 0)
    ]
    return StepLayout(
        rows=rows,
        borders=borders,
        clean_ids=indices(ids) if ids else None,
        clean_count=len(ids),
        attention=attention(cache, segments, bring) if segments else None,
        denoised=None if len(denoised) == len(works) else indices(denoised),
        bordered=indices(bordered) if bordered else None,
        border_tokens=indices(border_tokens) if bordered else None,
        blanks=indices(blanks) if blanks else None,
    )


def layout_key(works: list[RowWork]) -> tuple[object, ...] | None:
    """A key that is equal for steps with the same layout; ``None`` if a row has clean tokens."""
    if any(work.clean or not work.denoise for work in works):
        return None
    return tuple((work.row, work.blank, work.block_start, *work.pages) for work in works)
