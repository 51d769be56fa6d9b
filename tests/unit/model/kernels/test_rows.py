"""Kernels that treat each token by itself: norms, rotation with the write to the pool, the gate."""

import pytest
import torch
from torch import Tensor

from cdlm.model.config import RotaryScaling
from cdlm.model.kernels.norm import add_rms_norm
from cdlm.model.kernels.rotary import Angles, rotate_and_write
from cdlm.model.kernels.swiglu import swiglu
from cdlm.model.network.rope import RotaryEmbedding

# Of a value of about 4: some units in the last place.
NEAR = {torch.float32: 4e-6, torch.bfloat16: 6e-2, torch.float16: 8e-3}
DTYPES = list(NEAR)
STRETCHED = RotaryScaling(factor=4.0, positions=10, beta_fast=1.0, beta_slow=0.1, attention_factor=1.2, query_beta=0.3)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=NEAR[dtype], rtol=NEAR[dtype])


def normalized(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 96, 1000])
@pytest.mark.parametrize("added", [False, True])
def test_norm_of_a_sum(dtype: torch.dtype, size: int, added: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    x, delta = torch.randn(2, 3, size, device=device).to(dtype)
    weight = torch.randn(size, device=device).to(dtype)
    summed, normed = add_rms_norm(x, delta if added else None, weight, 1e-5)
    expected = x.double() + delta.double() if added else x.double()
    close(summed, expected, dtype)
    close(normed, normalized(summed.double(), weight.double(), 1e-5), dtype)


def test_norm_of_zeros_and_of_nothing(device: torch.device) -> None:
    weight = torch.ones(8, device=device)
    assert add_rms_norm(torch.zeros(2, 8, device=device), None, weight, 1e-6)[1].tolist() == [[0.0] * 8] * 2
    assert add_rms_norm(torch.zeros(0, 8, device=device), None, weight, 1e-6)[1].shape == (0, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [48, 1024, 1500])
def test_gate(dtype: torch.dtype, size: int, device: torch.device) -> None:
    torch.manual_seed(0)
    both = torch.randn(3, 2 * size, device=device).to(dtype)
    gate, up = both.double().chunk(2, dim=-1)
    close(swiglu(both), gate * gate.sigmoid() * up, dtype)
    assert swiglu(both[:0]).shape == (0, size)


def test_gate_far_from_zero_is_finite(device: torch.device) -> None:
    both = torch.tensor([[-1e4, 1e4, -200.0, 0.0] + [1.0] * 4], device=device)
    assert swiglu(both).tolist() == [[0.0, 1e4, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("scaling", [None, STRETCHED])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "turns"),
    [(28, 4, 64, 64), (9, 3, 64, 64), (4, 4, 96, 96), (0, 2, 128, 128), (8, 2, 64, 32), (2, 1, 96, 24)],
)
def test_rotation_and_write(
    dtype: torch.dtype,
    normed: bool,
    scaling: RotaryScaling | None,
    heads: int,
    kv_heads: int,
    dim: int,
    turns: int,
    device: torch.device,
) -> None:
    """Against the definition, a pair of numbers at a time; slots that belong to others stay as they were."""
    torch.manual_seed(0)
    positions = torch.tensor([0, 1, 17, 999], device=device)
    slots = torch.tensor([3, 39, 0, 7], device=device)
    projected = torch.randn(4, heads + 2 * kv_heads, dim, device=device).to(dtype)
    keys, values = torch.full((2, 40, kv_heads, dim), 7.0, device=device).to(dtype)
    rotary = RotaryEmbedding(turns, 1e4, scaling).to(device)
    weight = torch.randn(heads + kv_heads, dim, device=device).to(dtype)
    query = rotate_and_write(
        projected.flatten(1), heads, keys, values, slots, positions,
        Angles.up_to(1000, rotary), (weight, 1e-6) if normed else None,
    )  # fmt: skip
    turned = projected[:, : heads + kv_heads].double()
    if normed:
        turned = normalized(turned, weight.double(), 1e-6).to(dtype).double()
    half = turns // 2
    speeds = 1e4 ** (-torch.arange(half, device=device).double() / half)
    if scaling:
        speeds = rotary.inverse_frequency.double()
    angle = positions.double()[:, None, None] * speeds
    low, high, rest = turned.tensor_split((half, turns), dim=-1)
    expected = torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=-1)
    if scaling:
        expected *= 1.2
    expected = torch.cat((expected, rest), dim=-1)
    if scaling:
        expected[:, :heads] *= 1 + 0.3 * (1 + positions // 10).double().log()[:, None, None]
    tolerance = 1e-4 if dtype == torch.float32 else NEAR[dtype]  # Angles of fp32: 999 radians are known to 3e-5.
    if scaling:  # Up to three times as large.
        tolerance *= 3
    torch.testing.assert_close(query.double(), expected[:, :heads], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(keys[slots].double(), expected[:, heads:], atol=tolerance, rtol=tolerance)
    assert values[slots].equal(projected[:, heads + kv_heads :])
    others = [slot for slot in range(40) if slot not in slots.tolist()]
    assert (keys[others] == 7).all()
    assert (values[others] == 7).all()
