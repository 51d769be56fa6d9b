"""The gate of SwiGLU (Shazeer, 2020, arXiv 2002.05202), in one launch."""

import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 1024


@triton.jit
def _swiglu(out, both, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < SIZE
    gate = tl.load(both + row * 2 * SIZE + column, mask=inside, other=0.0)
    up = tl.load(both + row * 2 * SIZE + SIZE + column, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    small = tl.exp(-tl.abs(wide))  # The argument is not positive: no overflow.
    opened = (wide * tl.where(wide < 0, small, 1.0) / (1 + small)).to(gate.dtype).to(tl.float32)
    tl.store(out + row * SIZE + column, (opened * up).to(out.dtype.element_ty), mask=inside)


def swiglu(both: Tensor) -> Tensor:
    """silu(gate) * up; both [rows, 2 * size], contiguous: gates, then ups -> [rows, size]."""
    size = both.shape[-1] // 2
    out = both.new_empty((len(both), size))
    if len(both):
        _swiglu[(len(both), triton.cdiv(size, _COLUMNS))](out, both, SIZE=size, COLUMNS=_COLUMNS)
    return out
