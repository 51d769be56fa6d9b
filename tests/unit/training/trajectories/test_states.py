"""States and index sets of trajectories written out by hand; M is a masked position."""

import pytest
import torch
from torch import Tensor

from cdlm.training.trajectories.states import block_completion, index_sets, state_after
from cdlm.training.trajectories.trajectory import Trajectory

M = 99
# Two blocks of three: position 1 first, then 0, then 2; in the second block 5, 3, 4.
ORDER = [1, 0, 2, 4, 5, 3]
TOKENS = [10, 11, 12, 13, 14, 15]


def make() -> Trajectory:
    hidden = torch.zeros(len(TOKENS), 2, dtype=torch.bfloat16)
    return Trajectory([1], [2], torch.tensor(TOKENS), torch.tensor(ORDER), hidden, 0.0, 9)


def positions(chosen: Tensor) -> list[int]:
    return [int(index) for index in chosen.nonzero()[:, 0]]


@pytest.mark.parametrize(
    ("k", "state"),
    [
        (0, [M, M, M, M, M, M]),
        (1, [M, 11, M, M, M, M]),
        (2, [10, 11, M, M, M, M]),
        (3, [10, 11, 12, M, M, M]),
        (4, [10, 11, 12, M, M, 15]),
        (5, [10, 11, 12, 13, M, 15]),
        (6, [10, 11, 12, 13, 14, 15]),
    ],
)
def test_state_after_k_finalizations(k: int, state: list[int]) -> None:
    trajectory = make()
    assert state_after(trajectory, k, M).tolist() == state
    assert trajectory.tokens.tolist() == TOKENS


def test_block_completion_counts_up_to_the_end_of_the_active_block() -> None:
    assert [block_completion(k, 3) for k in range(6)] == [3, 3, 3, 6, 6, 6]
    assert [block_completion(k, 1) for k in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("k", "filled", "still_masked"),
    [
        (0, [0, 1, 2], [3, 4, 5]),
        (1, [0, 2], [3, 4, 5]),
        (2, [2], [3, 4, 5]),
        (3, [3, 4, 5], []),  # At the border the active block is the next one; in the last block S is empty.
        (4, [3, 4], []),
        (5, [4], []),
    ],
)
def test_index_sets(k: int, filled: list[int], still_masked: list[int]) -> None:
    u, s = index_sets(torch.tensor(ORDER), k, 3)
    assert (u.dtype, s.dtype) == (torch.bool, torch.bool)
    assert (positions(u), positions(s)) == (filled, still_masked)
    trajectory = make()
    y, later = state_after(trajectory, k, M), state_after(trajectory, block_completion(k, 3), M)
    assert torch.equal(u, (y == M) & (later != M))
    assert torch.equal(s, (y == M) & (later == M))
