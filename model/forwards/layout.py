"""Lays out the rows of a step in one forward: flat tokens, segments, and the hidden states that predict."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory, PagedAttention
from cdlm.model.attention.segments import Branch, Segment, clean_segments
from cdlm.model.config import Manifest
from cdlm.model.decoding.canvas import Canvas
from cdlm.model.row import Draft, RowWork, Span
from cdlm.model.uploads import Place, place_on


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A forward over T = C + D * block + M tokens: the clean tokens of all rows, the blocks of D denoised rows, and M
    masked rows that draft.

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
        drafting: M, the number of masked rows that draft.
        verifying: int64, the flat indices of the clean rows of all drafts, one draft after another; ``None`` when none.
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
    drafting: int = 0
    verifying: Tensor | None = None

    def predicting(self, hidden: Tensor, canvas: Canvas, manifest: Manifest) -> Tensor:
        """The hidden states that predict each row's block, [rows * block, hidden], from those of all T tokens.

        Keeps the border states in ``canvas``, if there are any.
        """
        blocks = hidden[self.clean_count : len(hidden) - self.drafting]
        if not manifest.has_border:
            return blocks
        if self.bordered is not None and self.border_tokens is not None:
            canvas.border.index_copy_(0, self.bordered, hidden.index_select(0, self.border_tokens))
        if not manifest.shift and self.denoised is None:
            return blocks  # The first tokens of these blocks are known.
        blocks = blocks.view(-1, canvas.block_length, hidden.shape[-1])
        border = canvas.border.index_select(0, self.borders)[:, None]
        if self.denoised is None:
            return torch.cat((border, blocks[:, :-1]), dim=1).flatten(0, 1)
        predicting = hidden.new_empty((len(self.rows), canvas.block_length, hidden.shape[-1]))
        predicting[:, :1] = border
        predicting[self.denoised, 1:] = blocks[:, :-1] if manifest.shift else blocks[:, 1:]
        return predicting.flatten(0, 1)

    def drafts(self, hidden: Tensor) -> Tensor:
        """Of all hidden states, those of all drafts' clean rows, then those of the masked rows."""
        assert self.verifying is not None
        return torch.cat((hidden.index_select(0, self.verifying), hidden[len(hidden) - self.drafting :]))


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
    verifying: list[int] = []
    branches: list[Segment] = []
    for index, work in enumerate(works):
        spans = work.clean if work.draft is None else with_candidates(work.clean, work.draft)
        segments += clean_segments(spans, work.pages)
        ids += [token for span in spans for token in span.token_ids]
        candidates = 0
        if work.draft is not None:
            candidates = len(work.draft.candidates)
            verifying += range(len(ids) - candidates - 1, len(ids))
            branches += branch_segments(work, work.draft)
        if work.clean:
            bordered.append(border[index])
            border_tokens.append(len(ids) - 1 - candidates)
    segments += [Segment(work.block_start, block_length, work.pages) for work in works if work.denoise]
    segments += branches
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
        drafting=sum(segment.length for segment in branches),
        verifying=indices(verifying) if verifying else None,
    )


def with_candidates(clean: list[Span], draft: Draft) -> list[Span]:
    """Known tokens with the candidates behind them, in as few spans as possible: the last token and all candidates
    are causal.
    """
    if not draft.candidates:
        return clean
    *before, last = clean
    if not last.causal and len(last.token_ids) > 1:
        return [*clean, Span(last.start + len(last.token_ids), draft.candidates, causal=True)]
    return [*before, Span(last.start, [*last.token_ids, *draft.candidates], causal=True)]


def branch_segments(work: RowWork, draft: Draft) -> list[Segment]:
    """The segment of the masked rows of a draft; none if there are none. Row j behind a token at position q is at
    position q + 1 + j.
    """
    branches = tuple(Branch(work.block_start + place, rows) for place, rows in enumerate(draft.behind) if rows)
    if not branches:
        return []
    start = work.block_start + len(draft.candidates)
    return [Segment(start, sum(branch.length for branch in branches), work.pages, branches=branches)]


def layout_key(works: list[RowWork]) -> tuple[object, ...] | None:
    """A key that is equal for steps with the same layout; ``None`` if a row has clean tokens."""
    if any(work.clean or not work.denoise or work.draft for work in works):
        return None
    return tuple((work.row, work.blank, work.block_start, *work.pages) for work in works)
