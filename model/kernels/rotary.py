"""The steps between projections and attention of a layer: norms, rotation, and the write to the KV cache."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from cdlm.model.network.rope import RotaryEmbedding

_HEADS = 4  # Heads per program.


@triton.jit
def _rotate_and_write(
    query, keys, values, projected, weight, cosines, sines, scales, positions, slots, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, NORM: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * TILE + tl.arange(0, TILE))[:, None]
    dim = tl.arange(0, WIDTH)[None, :]
    half: tl.constexpr = TURNED // 2
    partner = tl.where(dim < TURNED, (dim + half) % TURNED, dim)
    inside = (head < HEADS + 2 * KV_HEADS) & (dim < DIM)
    turned = inside & (head < HEADS + KV_HEADS)
    row = projected + (token * (HEADS + 2 * KV_HEADS) + head) * DIM
    given = tl.load(row + dim, mask=inside, other=0.0)
    wide = given.to(tl.float32)
    swapped = tl.load(row + partner, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(wide * wide, 1) / DIM + eps)[:, None]
        here = tl.load(weight + head * DIM + dim, mask=turned, other=0.0).to(tl.float32)
        there = tl.load(weight + head * DIM + partner, mask=turned, other=0.0).to(tl.float32)
        wide = (wide * scale * here).to(given.dtype).to(tl.float32)
        swapped = (swapped * scale * there).to(given.dtype).to(tl.float32)
    position = tl.load(positions + token)
    angle = position * half + dim % half
    cosine = tl.load(cosines + angle, mask=dim < TURNED, other=1.0)
    sine = tl.load(sines + angle, mask=dim < TURNED, other=0.0)
    rotated = (wide * cosine + swapped * tl.where(dim < half, -sine, sine)).to(given.dtype)
    asking = rotated
    if SCALED:  # Rounded to the layers' type twice, as PyTorch's operators do.
        scale = tl.load(scales + position).to(given.dtype).to(tl.float32)
        asking = (rotated.to(tl.float32) * scale).to(given.dtype)
    tl.store(query + (token * HEADS + head) * DIM + dim, asking, mask=inside & (head < HEADS))
    slot = tl.load(slots + token) * KV_HEADS
    key = head - HEADS
    tl.store(keys + (slot + key) * DIM + dim, rotated, mask=turned & (key >= 0))
    tl.store(values + (slot + key - KV_HEADS) * DIM + dim, given, mask=inside & (key >= KV_HEADS))


@dataclass(frozen=True, slots=True)
class Angles:
    """What queries and keys are turned by, per position.

    Attributes:
        cosines, sines: [positions, turned dimensions / 2] fp32.
        scales: [positions] fp32, what queries are multiplied by; ``None`` if nothing.
    """

    cosines: Tensor
    sines: Tensor
    scales: Tensor | None = None

    @classmethod
    def up_to(cls, positions: int, rotary: RotaryEmbedding) -> "Angles":
        """Computes those of positions 0 .. ``positions`` - 1."""
        at = torch.arange(positions, device=rotary.inverse_frequency.device)
        angles, factor = at[:, None].float() * rotary.inverse_frequency, rotary.attention_factor
        return cls(angles.cos() * factor, angles.sin() * factor, rotary.query_scale(at))


def rotate_and_write(
    projected: Tensor,
    heads: int,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
    angles: Angles,
    norm: tuple[Tensor, float] | None,
) -> Tensor:
    """Rotates queries and keys (Su et al., 2021, arXiv 2104.09864), and writes keys and values to their slots.

    Of each head, the first dimensions turn that ``angles`` has angles for.

    Args:
        projected: [T, (heads + 2 * kv_heads) * head_dim], contiguous: queries, keys, values.
        heads: query heads; 0 if only keys and values were projected.
        keys, values: [slots, kv_heads, head_dim], a layer's part of the pool.
        slots, positions: [T] int64.
        norm: weight [heads + kv_heads, head_dim] and epsilon of the norm of queries and keys, if any.

    Returns:
        The queries, [T, heads, head_dim].
    """
    kv_heads, dim = keys.shape[1:]
    query = projected.new_empty((len(projected), heads, dim))
    if len(projected):
        weight, eps = norm or (projected, 0.0)
        count = heads + 2 * kv_heads
        _rotate_and_write[(len(projected), triton.cdiv(count, _HEADS))](
            query, keys, values, projected, weight, angles.cosines, angles.sines,
            angles.cosines if angles.scales is None else angles.scales, positions, slots, eps,
            HEADS=heads, KV_HEADS=kv_heads, DIM=dim, TURNED=2 * angles.cosines.shape[1],
            WIDTH=triton.next_power_of_2(dim), TILE=_HEADS, NORM=norm is not None, SCALED=angles.scales is not None,
        )  # fmt: skip
    return query
