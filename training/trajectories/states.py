"""The intermediate states of a trajectory, and the positions on which the student's losses are taken.

Notation of CDLM (arXiv 2511.19269): y is the state after k finalizations, y* the state in which y's active block has
just been completed. U are the positions that y* has filled and y has not, S those still masked in both.
"""

import torch
from torch import Tensor

from cdlm.training.trajectories.trajectory import Trajectory


def state_after(trajectory: Trajectory, k: int, mask_id: int) -> Tensor:
    """[n] int64: the canvas after k finalizations, ``mask_id`` elsewhere. k in 0..n; at n nothing is masked."""
    return trajectory.tokens.masked_fill(trajectory.order >= k, mask_id)


def block_completion(k: int, block_length: int) -> int:
    """How many finalizations complete the active block of the state after k; always more than k.

    At a block border the active block is the one about to begin.
    """
    return (k // block_length + 1) * block_length


def index_sets(order: Tensor, k: int, block_length: int) -> tuple[Tensor, Tensor]:
    """(U, S) of the state after k finalizations, as [n] bool each; S is empty in the last block, U never.

    Args:
        order: [n] int64, as in ``Trajectory``.
        k: in 0..n-1.
        block_length: divides n.
    """
    completed = block_completion(k, block_length)
    return torch.logical_and(order >= k, order < completed), order >= completed
