"""Classifier-free guidance: a second pass over a row whose prompt is masked (docs/diffusion.md)."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.processors.processor import Processor, Step, positions
from cdlm.model.decoding.settings import RowSettings
from cdlm.model.row import RowWork, Span
from cdlm.model.uploads import Place


class Guide(Processor[None]):
    """Applies guidance; has no state per row, since ``RowWork.guidance`` describes it.

    Of a step it has, for each of P guided positions:
        _at: [P] int64, its index among the predicted positions.
        _weight: [P, 1] fp32, the guidance scale + 1.
        _passes: [P] int64, index of its row's second pass among all passes.
    """

    _at: Tensor
    _weight: Tensor
    _passes: Tensor

    def state(self, settings: RowSettings) -> None:
        """Nothing."""

    def wanted(self, works: list[RowWork]) -> bool:
        """Whether any row of the step is guided."""
        return any(work.guidance for work in works)

    def prepare(self, works: list[RowWork], counts: list[int], place: Place) -> None:
        """Places each guided position's weight and the indices of its two predictions."""
        guided = np.array([work.guidance is not None for work in works])
        self._at = place(positions(guided.tolist(), counts))
        per_row = np.array(counts)[guided]
        scales = [work.guidance.scale for work in works if work.guidance is not None]
        self._weight = place(1.0 + np.repeat(np.array(scales, dtype=np.float32), per_row)[:, None])
        order = len(works) + guided.cumsum() - 1  # Index of each guided row's second pass.
        self._passes = place(np.repeat(order[guided], per_row))

    def second_places(self, step: Step) -> Tensor:
        """Indices of the second passes' predictions for guided rows, int64 into [passes * block].

        The second passes of guided rows follow the step's rows in the forward, in order.
        """
        block = self.canvas.block_length
        return self._passes * block + step.chosen.index_select(0, self._at) % block

    def edit(self, step: Step) -> None:
        """Replaces the logits c of guided rows by u + (scale + 1) (c - u), in fp32; u are the logits without prompt."""
        base = step.unprompted.float()
        guided = torch.addcmul(base, self._weight, step.logits.index_select(0, self._at).float() - base)
        step.logits.index_copy_(0, self._at, guided.to(step.logits.dtype))


def without_prompt(work: RowWork, mask_token_id: int) -> RowWork:
    """The second, unconditional pass of a guided row: its prompt is masked, and it has its own pages.

    Both passes share the row's canvas, and therefore the tokens of the current block.
    """
    guidance = work.guidance
    assert guidance is not None
    blank = max(0, guidance.prompt_length - work.block_start)
    clean = [_masked(span, guidance.prompt_length, mask_token_id) for span in work.clean]
    return replace(work, pages=guidance.pages, clean=clean, guidance=None, blank=blank)


def _masked(span: Span, prompt_length: int, mask_token_id: int) -> Span:
    hidden = min(len(span.token_ids), max(0, prompt_length - span.start))
    return replace(span, token_ids=[mask_token_id] * hidden + span.token_ids[hidden:])
