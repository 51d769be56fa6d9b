"""How the rows of a step lie in its forward: which flat tokens, which segments, which hidden states predict."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory, PagedAttention
from cdlm.model.attention.segments import Segment, clean_segments
from cdlm.model.row import RowWork


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A forward over T = C + D * block tokens: the clean tokens of all rows, then the blocks of D denoised rows.

    A guided row is there twice, as two of the R.

    Attributes (R rows in the step):
        rows: [R] int64, their rows of the canvas.
        borders: [R] int64, their rows of ``Canvas.border``.
        clean_ids: [C] int64; ``None`` when C is 0.
        clean_count: C.
        attention: who sees whom among all T tokens, and where they lie; ``None`` when T is 0.
        denoised: [D] int64, which of the R rows are denoised; ``None`` when all are.
        bordered: [rows with clean tokens] int64, their rows of ``Canvas.border``; ``None`` when C is 0.
        border_tokens: like ``bordered``, the flat index of the last clean token of each.
        blanks: int64, which of the D * block tokens are shown as masks whatever the canvas holds; ``None`` when none.
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
    works: list[RowWork], block_length: int, cache: PagedCache, attention: AttentionFactory, canvas_rows: int = 0
) -> StepLayout:
    """Lays out one step; ``canvas_rows`` is needed where a row is guided."""
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

    def place(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=cache.keys.device)

    rows = place([work.row for work in works])
    borders = place(border) if any(work.blank is not None for work in works) else rows
    blanks = [
        index * block_length + offset
        for index, work in enumerate(work for work in works if work.denoise)
        for offset in range(work.blank or 0)
    ]
    return StepLayout(
        rows=rows,
        borders=borders,
        clean_ids=place(ids) if ids else None,
        clean_count=len(ids),
        attention=attention(cache, segments) if segments else None,
        denoised=None if len(denoised) == len(works) else place(denoised),
        bordered=place(bordered) if bordered else None,
        border_tokens=place(border_tokens) if bordered else None,
        blanks=place(blanks) if blanks else None,
    )


def layout_key(works: list[RowWork]) -> tuple[object, ...] | None:
    """What two steps must share to have one layout; ``None`` where clean tokens make every layout its own."""
    if any(work.clean or not work.denoise for work in works):
        return None
    return tuple((work.row, work.blank, work.block_start, *work.pages) for work in works)
