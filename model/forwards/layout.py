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
class Leads:
    """Groups that draft in place, among all rows of groups.

    Attributes:
        places: [groups] int64, the rows that hold a known token.
        ids: [groups] int64, these tokens.
        read: int64, the rows that draft.
    """

    places: Tensor
    ids: Tensor
    read: Tensor


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A forward over T = C + D * block + M tokens: the clean tokens of all rows, the blocks of D denoised rows, and M
    rows of groups that draft.

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
        drafting: M, the number of rows in groups that draft.
        leads: what is not a masked row that drafts among these; ``None`` if all are.
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
    leads: Leads | None = None
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
        """Of all hidden states, those of all drafts' clean rows, then those of the masked rows that draft."""
        assert self.verifying is not None
        masked = hidden[len(hidden) - self.drafting :]
        if self.leads is not None:
            masked = masked.index_select(0, self.leads.read)
        return torch.cat((hidden.index_select(0, self.verifying), masked))


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
    leads = lead_rows(works)

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
        leads=Leads(*(indices(each) for each in leads)) if leads else None,
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
    """The segment of the groups of a draft; none if there are none. Row j behind a token at position q is at position
    q + 1 + j; a group that drafts in place begins at q.
    """
    first = work.block_start - draft.in_place
    branches = tuple(Branch(first + place, rows + draft.lead) for place, rows in enumerate(draft.behind) if rows)
    if not branches:
        return []
    start, length = work.block_start + len(draft.candidates), sum(branch.length for branch in branches)
    return [Segment(start, length, work.pages, branches=branches, mutual=draft.in_place)]


def lead_rows(works: list[RowWork]) -> tuple[list[int], list[int], list[int]] | None:
    """The fields of ``Leads``; ``None`` if no group drafts in place."""
    places: list[int] = []
    ids: list[int] = []
    read: list[int] = []
    row = 0
    for work in works:
        if work.draft is None:
            continue
        known = [work.clean[-1].token_ids[-1], *work.draft.candidates]
        for token, rows in zip(known, work.draft.behind, strict=False):
            if rows and work.draft.in_place:
                places.append(row)
                ids.append(token)
            row += work.draft.lead if rows else 0
            read += range(row, row + rows)
            row += rows
    return (places, ids, read) if places else None


def layout_key(works: list[RowWork]) -> tuple[object, ...] | None:
    """A key that is equal for steps with the same layout; ``None`` if a row has clean tokens."""
    if any(work.clean or not work.denoise or work.draft for work in works):
        return None
    return tuple((work.row, work.blank, work.block_start, *work.pages) for work in works)
