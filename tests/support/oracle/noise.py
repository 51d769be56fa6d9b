"""Draws of the slow decoder: Philox in whole numbers, one token of the vocabulary at a time."""

import math
from functools import lru_cache

from torch import Tensor


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox 4x64 with 10 rounds (Salmon et al., 2011), in whole numbers."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = second >> 64 ^ b ^ left, second % 2**64, first >> 64 ^ d ^ right, first % 2**64
        left, right = (left + 0x9E3779B97F4A7C15) % 2**64, (right + 0xBB67AE8584CAA73B) % 2**64
    return a, b, c, d


@lru_cache(maxsize=2**18)
def uniform(seed: int, position: int, token: int, vocab_size: int) -> float:
    """The number in (0, 1) that a token's noise at a position is made of."""
    words = philox((position * math.ceil(vocab_size / 8) + token // 8 + 1, 0, 0, 0), (seed % 2**64, 0))
    half = words[token % 8 // 2] >> 32 * (token % 2) & 0xFFFFFFFF
    return min((half + 0.5) / 2**32, 1 - 2**-24)


def draw(logits: Tensor, temperature: float, seed: int, position: int) -> int:
    """Draws a token by the Gumbel-max trick."""
    noisy = [
        value / temperature - math.log(-math.log1p(-uniform(seed, position, token, len(logits))))
        for token, value in enumerate(logits.tolist())
    ]
    return noisy.index(max(noisy))
