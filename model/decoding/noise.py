"""Noise that depends on a seed, a position and a token's id alone: whatever else runs, a position draws the same.

The generator counts instead of keeping a state: Philox 4x64 with 10 rounds (Salmon et al., 2011, "Parallel random
numbers: as easy as 1, 2, 3"), keyed by the seed, at counter (id // 8 + 1, position, 0, 0).
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
        counter = np.array([0, position, 0, 0], dtype=np.uint64)  # The generator counts up before it draws.
        line[:] = np.random.Philox(key=key, counter=counter).random_raw(len(line) // 2).view(np.uint32)
    # Uniform in (0, 1), finer towards 0: there the largest noise comes from, and with it the winners.
    uniform = torch.from_numpy(raw[:, :vocab_size].astype(np.float32)).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()
