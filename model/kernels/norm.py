"""Residual sum and RMSNorm (Zhang and Sennrich, 2019, arXiv 1910.07467) in one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_rms_norm(
    normed, summed, x, delta, weight, eps,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, WIDTH)
    inside = column < SIZE
    value = tl.load(x + row + column, mask=inside, other=0.0)
    if ADD:
        added = value.to(tl.float32) + tl.load(delta + row + column, mask=inside, other=0.0).to(tl.float32)
        value = added.to(summed.dtype.element_ty)
        tl.store(summed + row + column, value, mask=inside)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    weights = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + column, (wide * scale * weights).to(normed.dtype.element_ty), mask=inside)


def add_rms_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Computes x + delta and its RMSNorm, in fp32.

    Args:
        x, delta: [rows, size], contiguous; ``None`` adds nothing.
        weight: [size].

    Returns:
        The sum, rounded to the dtype of x, and its norm, [rows, size] each.
    """
    normed = torch.empty_like(x)
    summed = x if delta is None else torch.empty_like(x)
    size = x.shape[-1]
    if len(x):
        _add_rms_norm[(len(x),)](
            normed, summed, x, x if delta is None else delta, weight, eps,
            SIZE=size, WIDTH=triton.next_power_of_2(size), ADD=delta is not None,
            num_warps=min(16, max(4, triton.next_power_of_2(size) // 512)),
        )  # fmt: skip
    return summed, normed
