"""Classifier-free guidance: a second pass over a row whose prompt is masked (docs/diffusion.md)."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.row import RowWork, Span


def without_prompt(work: RowWork, mask_token_id: int) -> RowWork:
    """The second pass of a guided row: mask tokens in the place of its prompt, and pages of its own.

    It shares the row's canvas, so that both see the same tokens of the current block.
    """
    guidance = work.guidance
    assert guidance is not None
    blank = max(0, guidance.prompt_length - work.block_start)
    clean = [_masked(span, guidance.prompt_length, mask_token_id) for span in work.clean]
    return replace(work, pages=guidance.pages, clean=clean, guidance=None, blank=blank)


def _masked(span: Span, prompt_length: int, mask_token_id: int) -> Span:
    hidden = min(len(span.token_ids), max(0, prompt_length - span.start))
    return replace(span, token_ids=[mask_token_id] * hidden + span.token_ids[hidden:])


def second_places(works: list[RowWork], counts: list[int], chosen: Tensor, block_length: int) -> tuple[Tensor, Tensor]:
    """Which predicted positions belong to guided rows, and where the second pass predicts them.

    Args:
        works: the rows of the step; the second passes of guided ones follow them in the forward, in order.
        counts: how many of the predicted positions belong to each row.
        chosen: [positions] int64, where each lies in [rows, block], flattened.
        block_length: of the canvas.

    Returns:
        [guided positions] int64 into ``chosen``, and int64 into [passes * block].
    """
    guided = np.array([work.guidance is not None for work in works])
    order = len(works) + guided.cumsum() - 1  # Of a guided row, the number of its second pass.
    at = torch.from_numpy(np.flatnonzero(np.repeat(guided, counts))).to(chosen.device)
    passes = torch.from_numpy(np.repeat(order[guided], np.array(counts)[guided])).to(chosen.device)
    return at, passes * block_length + chosen[at] % block_length


def guide(works: list[RowWork], counts: list[int], at: Tensor, logits: Tensor, without: Tensor) -> None:
    """Moves the logits of guided rows away from those without the prompt: u + (scale + 1) (c - u), in fp32.

    logits [positions, vocab] are changed in place at ``at`` [guided positions]; without [guided positions, vocab].
    """
    pairs = [(work.guidance.scale, count) for work, count in zip(works, counts, strict=True) if work.guidance]
    scales = np.repeat([scale for scale, _ in pairs], [count for _, count in pairs])
    weight = 1.0 + torch.from_numpy(scales).to(logits.device, torch.float32)[:, None]
    base = without.float()
    guided = torch.addcmul(base, weight, logits.index_select(0, at).float() - base)
    logits.index_copy_(0, at, guided.to(logits.dtype))
