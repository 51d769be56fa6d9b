"""The kernels against float64 where their memory is poisoned, and their time against PyTorch's operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.report import Budget, milliseconds
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.config import TransformerConfig
from cdlm.model.decoding.logits.confidence import confidence_and_best
from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.kernels.norm import add_rms_norm
from cdlm.model.kernels.rotary import Angles, rotate_and_write
from cdlm.model.kernels.statistics import row_statistics
from cdlm.model.kernels.swiglu import swiglu
from cdlm.model.network.rope import RotaryEmbedding, rotate
from cdlm.model.network.transformer import rms_norm

NEAR = {torch.float32: 3e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}


def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Rows: kernel, dtype, largest difference from float64, whether that is near, milliseconds, and PyTorch's."""
    rows = []
    with _poison():
        for dtype in NEAR:
            for name, case in CASES.items():
                if not budget.over:
                    rows.append({"kernel": name, "dtype": str(dtype)[6:], **case(device, dtype, small)})
    return {"rows": rows, "failed": [f"{row['kernel']} {row['dtype']}" for row in rows if not row["near"]]}


class _poison:
    """What nobody has written yet is NaN."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


def _compared(found: Tensor, expected: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    difference = float((found.double() - expected).abs().max())
    return {"difference": difference, "near": difference <= NEAR[dtype] * max(1.0, float(expected.abs().max()))}


def _timed(kernel: Callable[[], object], plain: Callable[[], object], device: torch.device) -> dict[str, Any]:
    torch.use_deterministic_algorithms(False)
    times = {"ms": milliseconds(kernel, device), "plain_ms": milliseconds(plain, device)}
    torch.use_deterministic_algorithms(True, warn_only=True)
    return times


def _norm(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    tokens, size = (4, 96) if small else (2048, 3584)
    x, delta = torch.randn(2, tokens, size, device=device).to(dtype)
    weight = torch.randn(size, device=device).to(dtype)
    summed, normed = add_rms_norm(x, delta, weight, 1e-6)
    wide = summed.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    return _compared(normed, expected, dtype) | _timed(
        lambda: add_rms_norm(x, delta, weight, 1e-6), lambda: rms_norm(x + delta, weight, 1e-6), device
    )


def _gate(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    both = torch.randn(*((4, 192) if small else (2048, 37888)), device=device).to(dtype)
    gate, up = both.double().chunk(2, dim=-1)
    expected = gate * gate.sigmoid() * up

    def plain() -> Tensor:
        left, right = both.chunk(2, dim=-1)
        return torch.nn.functional.silu(left) * right

    return _compared(swiglu(both), expected, dtype) | _timed(lambda: swiglu(both), plain, device)


def _rotation(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    tokens, heads, kv_heads, dim = (3, 4, 2, 16) if small else (2048, 28, 4, 128)
    projected = torch.randn(tokens, heads + 2 * kv_heads, dim, device=device).to(dtype)
    keys, values = torch.zeros(2, tokens, kv_heads, dim, device=device, dtype=dtype)
    slots = torch.randperm(tokens, device=device)
    positions = torch.randint(4096, (tokens,), device=device)
    rotary = RotaryEmbedding(dim, 1e6).to(device)
    angles = Angles.up_to(4096, rotary)

    def kernel() -> Tensor:
        return rotate_and_write(projected.flatten(1), heads, keys, values, slots, positions, angles, None)

    def plain() -> Tensor:
        turned = rotate(projected[:, : heads + kv_heads], *rotary(positions))
        keys.index_copy_(0, slots, turned[:, heads:])
        values.index_copy_(0, slots, projected[:, heads + kv_heads :])
        return turned[:, :heads]

    query = kernel()
    expected = rotate(projected[:, : heads + kv_heads].float(), *rotary(positions)).double()
    found = torch.cat((query, keys[slots]), dim=1)
    return _compared(found, expected, dtype) | _timed(kernel, plain, device)


def _attention(shape: tuple[int, int, int], rows: int, context: int) -> Callable[..., dict[str, Any]]:
    def case(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
        heads, kv_heads, dim = shape
        if small and kv_heads % 4 == 0:  # As many heads share a key.
            heads, kv_heads = heads // 4, kv_heads // 4
        count, seen, block, page = (2, 40, 8, 16) if small else (rows, context, 32, 32)
        pages = -(-(seen + block) // page)
        config = TransformerConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=heads, num_kv_heads=kv_heads,
            head_dim=dim,
        )  # fmt: skip
        cache = PagedCache(config, num_pages=count * pages, page_size=page, device=device, dtype=dtype)
        cache.keys.normal_()
        cache.values.normal_()
        free = torch.randperm(count * pages).tolist()
        segments = [Segment(seen, block, [free.pop() for _ in range(pages)]) for _ in range(count)]
        query = torch.randn(count * block, heads, dim, device=device).to(dtype)
        kernel, plain = TritonAttention(cache, segments), SdpaAttention(cache, segments)
        keys, values = cache.keys[0], cache.values[0]
        found = kernel.attend(query, keys, values)
        slots = torch.from_numpy(segments[0].slots(page)).to(device)
        near = [each[slots].double().repeat_interleave(heads // kv_heads, dim=1) for each in (keys, values)]
        scores = torch.einsum("qhd,khd->hqk", query[:block].double(), near[0]) * dim**-0.5
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), near[1])
        times = _timed(lambda: kernel.attend(query, keys, values), lambda: plain.attend(query, keys, values), device)
        return _compared(found[:block], expected, dtype) | times

    return case


def _statistics(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    rows, vocab = (3, 2000) if small else (2048, 152064)
    logits = (torch.randn(rows, vocab, device=device) * 4).to(dtype)
    few = logits[:2].double()
    few[:, 7] = float("-inf")
    found, entropy, _ = row_statistics(logits, 7, entropy=True)
    assert entropy is not None
    probability = few.softmax(-1)
    expected = torch.stack((probability.amax(-1), torch.special.entr(probability).sum(-1)))
    same = found.token[:2].equal(few.argmax(-1))
    compared = _compared(torch.stack((found.confidence[:2], entropy[:2])), expected, torch.float32)
    compared["near"] = compared["near"] and same
    return compared | _timed(lambda: row_statistics(logits, 7), lambda: confidence_and_best(logits, 7), device)


def _draws(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    rows, vocab = (3, 2000) if small else (64, 152064)
    logits = torch.randn(rows, vocab, device=device).to(dtype)
    positions = torch.arange(rows, device=device)
    how = torch.full((rows,), 0.8, device=device), positions - 1, positions

    def plain() -> Tensor:
        noise = torch.cat([gumbel_noise(row - 1, [row], vocab) for row in range(rows)]).to(device)
        return (logits.float() / 0.8 + noise).argmax(-1)

    _, _, found = row_statistics(logits, vocab, draw=how)
    assert found is not None
    differing = int((found != plain()).sum())  # By roundings alone.
    return {"difference": float(differing), "near": differing <= rows // 32} | _timed(
        lambda: row_statistics(logits, vocab, draw=how), plain, device
    )


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "norm": _norm,
    "gate": _gate,
    "rotation": _rotation,
    "attention 28/4, 1 row, 2048 cached": _attention((28, 4, 128), 1, 2048),
    "attention 28/4, 64 rows, 512 cached": _attention((28, 4, 128), 64, 512),
    "attention 28/4, 64 rows, 2048 cached": _attention((28, 4, 128), 64, 2048),
    "attention 32/32, 16 rows, 512 cached": _attention((32, 32, 128), 16, 512),
    "attention 9/3, 16 rows, 512 cached": _attention((9, 3, 64), 16, 512),
    "attention 32/8, 16 rows, 8192 cached": _attention((32, 8, 128), 16, 8192),
    "row statistics": _statistics,
    "draws": _draws,
}
