"""Products of rows with the matrices of their groups, in one launch that knows the groups' sizes on the device only."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Columns of the result that a program computes, and inputs that it reads at a time.
_COLUMNS, _DEPTH = 64, 64
# Rows of a tile: as many as matrix units multiply at a time, and more where the groups have them.
_FEWEST_ROWS, _MOST_ROWS = 16, 64


@triton.jit
def _grouped_product(
    out, rows, weights, ends,
    GROUPS: tl.constexpr, LINES: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of a group's rows by a tile of columns: grid (tiles, column tiles).

    WIDEN multiplies bf16 values in fp32, since Triton's interpreter has no bf16 product.
    """
    tile = tl.program_id(0)
    # Which group's tile this is: groups have as many as their rows need.
    group = tl.arange(0, LINES)
    known = group < GROUPS
    last = tl.load(ends + group, mask=known, other=0)
    first = tl.load(ends + group - 1, mask=known & (group > 0), other=0)
    tiles = tl.where(known, (last - first + ROWS - 1) // ROWS, 0)
    through = tl.cumsum(tiles, 0)
    mine = tl.sum(tl.where(known & (through <= tile), 1, 0), 0)
    if mine == GROUPS:  # There are fewer tiles than the host allowed for.
        return
    here = group == mine
    end = tl.sum(tl.where(here, last, 0), 0)
    begin = tl.sum(tl.where(here, first + (tile - through + tiles) * ROWS, 0), 0)
    row = begin + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside, wide = row < end, column < OUT
    matrix = weights + mine.to(tl.int64) * OUT * IN
    added = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, IN, DEPTH):
        at = start + tl.arange(0, DEPTH)
        there = at < IN
        x = tl.load(
            rows + row.to(tl.int64)[:, None] * IN + at[None, :], mask=inside[:, None] & there[None, :], other=0.0
        )
        w = tl.load(matrix + column[:, None] * IN + at[None, :], mask=wide[:, None] & there[None, :], other=0.0)
        if WIDEN:
            x, w = x.to(tl.float32), w.to(tl.float32)
        added += tl.dot(x, tl.trans(w), input_precision="ieee")
    place = out + row.to(tl.int64)[:, None] * OUT + column[None, :]
    tl.store(place, added.to(out.dtype.element_ty), mask=inside[:, None] & wide[None, :])


def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """rows [R, in] in the order of their groups, weights [groups, out, in] -> [R, out], summed in fp32.

    The host does not wait for ``ends`` [groups] int64, the number of rows up to the end of each group.
    """
    groups, size_out, size_in = weights.shape
    out = rows.new_empty((len(rows), size_out))
    if len(rows):
        tile = min(_MOST_ROWS, max(_FEWEST_ROWS, triton.next_power_of_2(len(rows) // groups)))
        # Every group with rows may have one tile that is not full.
        tiles = len(rows) // tile + min(groups, len(rows))
        _grouped_product[(tiles, triton.cdiv(size_out, _COLUMNS))](
            out, rows, weights, ends,
            GROUPS=groups, LINES=triton.next_power_of_2(groups), IN=size_in, OUT=size_out,
            ROWS=tile, COLUMNS=_COLUMNS, DEPTH=_DEPTH,
            WIDEN=rows.device.type == "cpu" and rows.dtype == torch.bfloat16,
        )  # fmt: skip
    return out
