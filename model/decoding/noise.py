"""Gumbel noise that depends on seed, position and token id alone: draws are the same in any batch.

The generator is counter-based: Philox 4x64 with 10 rounds (Salmon et al., 2011, "Parallel random numbers: as easy as 1,
2, 3"), keyed by the seed, at counter (id // 8 + 1, position, 0, 0).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_WORD = 2**64 - 1


def gumbel_noise(seed: int, positions: Sequence[int], vocab_size: int) -> Tensor:
    """Standard Gumbel noise for each token at each of the positions, [positions, vocab] fp32 on the CPU."""
    raw = np.empty((len(positions), -(-vocab_size // 8) * 8), dtype=np.uint32)
    key = np.array([seed & _WORD, 0], dtype=np.uint64)
    for line, position in zip(raw, positions, strict=True):
        counter = np.array([0, position, 0, 0], dtype=np.uint64)  # numpy increments the counter first.
        line[:] = np.random.Philox(key=key, counter=counter).random_raw(len(line) // 2).view(np.uint32)
    # Uniform in (0, 1), finer near 0: the largest noise comes from there, and decides the argmax.
    uniform = torch.from_numpy(raw[:, :vocab_size].astype(np.float32)).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()
