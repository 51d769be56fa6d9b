"""Gumbel noise that depends on seed, position and token id alone: draws are the same in any batch.

The generator counts instead of keeping a state: Philox 4x64 with 10 rounds (Salmon et al., 2011, "Parallel random
numbers: as easy as 1, 2, 3"), keyed by the seed. A counter gives eight numbers, so a position with a vocabulary of V
tokens takes W = ceil(V / 8) of them: counter position * W + id // 8 + 1. ``model/kernels/statistics.py`` computes the
same numbers on a GPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_WORD = 2**64 - 1


def gumbel_noise(seed: int, positions: Sequence[int], vocab_size: int) -> Tensor:
    """Standard Gumbel noise for each token at each of the positions, [positions, vocab] fp32 on the CPU.

    ``positions`` are those of a block or a draft, in any order: what lies between them is computed too.
    """
    first, last, words = min(positions), max(positions), -(-vocab_size // 8)
    distinct = sorted(set(positions))
    key = np.array([seed & _WORD, 0], dtype=np.uint64)
    counter = np.array([first * words, 0, 0, 0], dtype=np.uint64)  # The generator counts up before it draws.
    raw = np.random.Philox(key=key, counter=counter).random_raw((last - first + 1) * words * 4)
    table = raw.view(np.uint32).reshape(-1, words * 8)[[position - first for position in distinct], :vocab_size]
    # Uniform in (0, 1), finer towards 0: there the largest noise comes from, and with it the winners.
    uniform = torch.from_numpy(table.astype(np.float32)).add_(0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
    noise = uniform.neg_().log1p_().neg_().log_().neg_()
    return noise if distinct == list(positions) else noise[[distinct.index(position) for position in positions]]
