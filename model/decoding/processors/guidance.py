"""Classifier-free guidance: a second pass over a row whose prompt is masked (docs/diffusion.md)."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.settings import RowSettings
from cdlm.model.row import RowWork, Span


class Guide(Processor[None]):
    """Applies guidance; has no state per row, since ``RowWork.guidance`` describes it."""

    def state(self, settings: RowSettings) -> None:
        """Nothing."""

    def wanted(self, works: list[RowWork]) -> bool:
        """Whether any row of the step is guided."""
        return any(work.guidance for work in works)

    def edit(self, step: Step) -> None:
        """Replaces the logits c of guided rows by u + (scale + 1) (c - u), in fp32; u are the logits without prompt."""
        at = step.positions([work.guidance is not None for work in step.works])
        pairs = [(work.guidance.scale, mine.stop - mine.start) for _, work, mine in step.rows() if work.guidance]
        scales = np.repeat([scale for scale, _ in pairs], [count for _, count in pairs])
        weight = 1.0 + torch.from_numpy(scales).to(step.logits.device, torch.float32)[:, None]
        base = step.unprompted.float()
        guided = torch.addcmul(base, weight, step.logits.index_select(0, at).float() - base)
        step.logits.index_copy_(0, at, guided.to(step.logits.dtype))


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


def second_places(step: Step, block_length: int) -> Tensor:
    """Indices of the second passes' predictions for guided rows, int64 into [passes * block].

    The second passes of guided rows follow the step's rows in the forward, in order.
    """
    guided = np.array([work.guidance is not None for work in step.works])
    order = len(step.works) + guided.cumsum() - 1  # Index of each guided row's second pass.
    passes = torch.from_numpy(np.repeat(order[guided], np.array(step.counts)[guided])).to(step.chosen.device)
    return passes * block_length + step.chosen[step.positions(guided.tolist())] % block_length
