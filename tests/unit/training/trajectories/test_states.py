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


def make(
    tokens: list[int] = TOKENS,
    order: list[int] = ORDER,
    hidden: Tensor | None = None,
    prompt: tuple[int, ...] = (1,),
    truth: tuple[int, ...] = (2,),
    temperature: float = 0.0,
    generation_length: int = 9,
) -> Trajectory:
    states = torch.zeros(len(tokens), 2, dtype=torch.bfloat16) if hidden is None else hidden
    return Trajectory(
        list(prompt), list(truth), torch.tensor(tokens), torch.tensor(order), states, temperature, generation_length
    )


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


def test_k_and_block_length_are_checked() -> None:
    order = torch.tensor(ORDER)
    for k in (-1, 6):
        with pytest.raises(ValueError, match=f"k must lie in 0..5, got {k}"):
            index_sets(order, k, 3)
    for k in (-1, 7):
        with pytest.raises(ValueError, match=f"k must lie in 0..6, got {k}"):
            state_after(make(), k, M)
    with pytest.raises(ValueError, match="6 positions are not a multiple of the block length 4"):
        index_sets(order, 0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ()}, "prompt is empty"),
        ({"truth": ()}, "truth is empty"),
        ({"tokens": [], "order": []}, "tokens must be a non-empty int64 vector"),
        ({"order": [0, 1, 2]}, r"order must be int64 of length 6 like tokens, got int64 \[3\]"),
        ({"order": [1, 0, 2, 4, 5, 5]}, r"order is not a permutation of 0\.\.5"),
        ({"order": [1, 0, 2, 4, 6, 3]}, r"order is not a permutation of 0\.\.5"),
        ({"hidden": torch.zeros(6, 2)}, r"hidden must be bfloat16 \[6, hidden_size\], got float32 \[6, 2\]"),
        ({"hidden": torch.zeros(5, 2, dtype=torch.bfloat16)}, r"got bfloat16 \[5, 2\]"),
        ({"temperature": -0.5}, "temperature must not be negative"),
        ({"generation_length": 5}, "generation_length 5 is below the 6 decoded tokens"),
    ],
)
def test_contradicting_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)  # type: ignore[arg-type]


def test_order_must_go_block_by_block() -> None:
    make().check_blocks(3)
    make(order=[2, 0, 1, 5, 4, 3]).check_blocks(3)
    with pytest.raises(ValueError, match="position 2 of block 0 has order 3, which belongs to block 1"):
        make(order=[1, 0, 3, 4, 5, 2]).check_blocks(3)
    with pytest.raises(ValueError, match="6 positions are not a multiple of the block length 4"):
        make().check_blocks(4)
