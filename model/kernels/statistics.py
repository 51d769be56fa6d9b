"""Statistics of rows of logits in one pass: argmax, confidence, entropy and a draw."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from cdlm.model.network.head import Peaks

_GROUPS = 128  # Groups of eight logits that a program reads at a time.


@triton.jit
def _philox(first, second, third, fourth, key):
    """Philox 4x64, 10 rounds (Salmon et al., 2011), as in ``model/decoding/logits/noise.py``: its second key is 0."""
    other = key * 0
    for _ in tl.static_range(10):
        high, low = tl.umulhi(first, 0xD2E7470EE14C6C93), first * 0xD2E7470EE14C6C93
        high_3, low_3 = tl.umulhi(third, 0xCA5A826395121157), third * 0xCA5A826395121157
        first, second, third, fourth = high_3 ^ second ^ key, low_3, high ^ fourth ^ other, low
        key += 0x9E3779B97F4A7C15
        other += 0xBB67AE8584CAA73B
    return first, second, third, fourth


@triton.jit
def _gumbel(counter, seed):
    """Noise of the eight ids of each counter, [counters, 8]; see ``model/decoding/logits/noise.py``."""
    zero = counter * 0
    a, b, c, d = _philox(counter, zero, zero, zero, zero + seed.to(tl.uint64))
    inner = tl.arange(0, 8)[None, :]
    word = tl.where(inner < 2, a[:, None], tl.where(inner < 4, b[:, None], tl.where(inner < 6, c[:, None], d[:, None])))
    half = tl.where(inner % 2 == 0, word & 0xFFFFFFFF, word >> 32).to(tl.uint32)
    uniform = tl.minimum((half.to(tl.float32) + 0.5) * (1 / 4294967296), 1 - 1 / 16777216)
    # log(1 - u) as a series: for small u, 1 - u would lose the precision of the largest noise.
    series = uniform * (1 + uniform * (1 / 2 + uniform * (1 / 3 + uniform / 4)))
    return -tl.log(tl.where(uniform < 1 / 128, series, -tl.log(1 - uniform)))


@triton.jit
def _row_statistics(
    token, confidence, top_logit, entropy, drawn, logits, temperatures, seeds, positions, row_stride, vocab, mask_token,
    ENTROPY: tl.constexpr, DRAW: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    inner = tl.arange(0, GROUPS)[:, None] * 8 + tl.arange(0, 8)[None, :]
    # Each lane has its own statistics, combined at the end.
    top = tl.full([GROUPS, 8], float("-inf"), tl.float32)
    at, total, moment = (
        tl.zeros([GROUPS, 8], tl.int32),
        tl.zeros([GROUPS, 8], tl.float32),
        tl.zeros([GROUPS, 8], tl.float32),
    )
    broken = tl.zeros([GROUPS, 8], tl.int32)
    best, best_at = top, at
    if DRAW:
        temperature = tl.load(temperatures + row)
        seed = tl.load(seeds + row)
        first_counter = (tl.load(positions + row) * tl.cdiv(vocab, 8) + 1).to(tl.uint64)
    for begin in range(0, vocab, GROUPS * 8):
        here = begin + inner
        x = tl.load(
            logits + row * row_stride + here, mask=(here < vocab) & (here != mask_token), other=float("-inf")
        ).to(tl.float32)
        wrong = (x != x) | (x == float("inf"))
        broken |= wrong.to(tl.int32)
        x = tl.where(wrong, float("-inf"), x)
        larger = x > top
        base = tl.where(larger, x, top)
        shift = tl.where(base == float("-inf"), 0.0, base)
        shrink = tl.exp(top - shift)
        weight = tl.exp(x - shift)
        if ENTROPY:
            # Relative to the maximum, which moves: sum of exp(x - top) * (x - top).
            moved = moment + total * tl.where(top == float("-inf"), 0.0, top - shift)
            moment = shrink * moved + weight * tl.where(x == float("-inf"), 0.0, x - shift)
        total = total * shrink + weight
        at = tl.where(larger, here, at)
        top = base
        if DRAW:
            noise = _gumbel(first_counter + (begin // 8 + tl.arange(0, GROUPS)).to(tl.uint64), seed)
            noisy = x / temperature + noise
            better = noisy > best
            best_at = tl.where(better, here, best_at)
            best = tl.where(better, noisy, best)
    highest = tl.max(top)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    shrink = tl.exp(top - shift)
    found = tl.min(tl.where(top == highest, at, 2147483647))
    ruined = (tl.max(broken) > 0) | (highest == float("-inf"))
    sum_ = tl.where(ruined, 1.0, tl.sum(total * shrink))
    tl.store(token + row, tl.where(ruined, 0, found).to(tl.int64))
    tl.store(confidence + row, tl.where(ruined, float("nan"), 1 / sum_))
    tl.store(top_logit + row, tl.where(tl.max(broken) > 0, float("nan"), highest))
    if ENTROPY:
        moved = moment + total * tl.where(top == float("-inf"), 0.0, top - shift)
        tl.store(entropy + row, tl.where(ruined, float("nan"), tl.log(sum_) - tl.sum(shrink * moved) / sum_))
    if DRAW:
        winner = tl.min(tl.where(best == tl.max(best), best_at, 2147483647))
        tl.store(drawn + row, tl.where(ruined, 0, winner).to(tl.int64))


def row_statistics(
    logits: Tensor, mask_token_id: int, *, entropy: bool = False, draw: tuple[Tensor, Tensor, Tensor] | None = None
) -> tuple[Peaks, Tensor | None, Tensor | None]:
    """Computes the statistics of logits [rows, vocab] in one pass, without the mask token.

    Of equal logits the first wins. The softmax is that of Milakov and Gimelshein (2018, arXiv 1805.02867), in fp32; a
    draw is the largest of logit / temperature + Gumbel noise.

    Args:
        entropy: whether it is computed.
        draw: temperatures [rows] fp32, above 0; seeds and positions [rows] int64.

    Returns:
        The peaks; entropy [rows] fp32 in nats, NaN where the confidence is NaN; drawn tokens [rows] int64, 0 there.
    """
    rows, vocab = logits.shape
    token = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    top = torch.empty_like(confidence)
    entropies = torch.empty_like(confidence) if entropy else None
    drawn = torch.empty_like(token) if draw is not None else None
    temperatures, seeds, positions = draw or (confidence, token, token)  # Unused pointers.
    if rows:
        _row_statistics[(rows,)](
            token, confidence, top, confidence if entropies is None else entropies, token if drawn is None else drawn,
            logits, temperatures, seeds, positions, logits.stride(0), vocab, mask_token_id,
            ENTROPY=entropy, DRAW=draw is not None, GROUPS=_GROUPS, num_warps=8,
        )  # fmt: skip
    return Peaks(confidence, token, top), entropies, drawn
