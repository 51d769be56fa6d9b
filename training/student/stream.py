"""The endless, reproducible sequence of a student's batches; resumable at any of them, a part of it for each rank."""

import itertools
import random
from collections.abc import Iterator, Sequence

from training.errors import TrainingError
from training.student.rows import StudentBatch, student_rows, truth_canvas
from training.trajectories.trajectory import Trajectory


class StudentStream:
    """Batches of trajectories of similar length; every epoch visits all in a new order, each at a new state.

    A batch is full when one more trajectory would bring it over ``max_rows`` or ``max_tokens``. In each step the
    ranks take different batches, which together are those that one rank would take in ``world_size`` steps; the few
    that do not make a whole step are left out of the epoch.

    Args:
        trajectories: what is visited, but for the first ``held_out``.
        seed: of the order, the states and the masks.
        mask_id: id of a masked position.
        end_id: id that continues the ground truth to whole blocks.
        block_length: tokens in a block.
        max_rows: trajectories in a batch.
        max_tokens: tokens of a batch's three forwards, filling included.
        rank: the worker these batches are for, of ``world_size``.

    Raises:
        TrainingError: a trajectory is longer than ``max_tokens``, or there are fewer batches than ranks.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        *,
        seed: str,
        mask_id: int,
        end_id: int,
        block_length: int,
        held_out: int = 0,
        max_rows: float = float("inf"),
        max_tokens: float = float("inf"),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.trajectories, self.seed = trajectories, seed
        self.mask_id, self.end_id, self.block_length, self.held_out = mask_id, end_id, block_length, held_out
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.rank, self.world_size = rank, world_size
        self._lengths = [_row_lengths(trajectory, block_length) for trajectory in trajectories]
        longest = max((_tokens(1, *lengths) for lengths in self._lengths), default=0)
        if longest > max_tokens:
            raise TrainingError(f"a trajectory takes {longest} tokens, a worker's batch holds {max_tokens:.0f}")

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[int, int, StudentBatch]]:
        """Yields (epoch, index in the epoch, this rank's batch), starting behind ``skip`` batches of ``epoch``."""
        for number in itertools.count(epoch):
            for index, group in enumerate(self._epoch(number)):
                if number > epoch or index >= skip:
                    yield number, index, self.rows(group, f"{number}/{index * self.world_size + self.rank}")

    def rows(self, group: Sequence[int], visit: str) -> StudentBatch:
        """The trajectories numbered ``group``, each after a uniform number of finalisations; ``visit`` seeds it."""
        rng = random.Random(f"{self.seed}/{visit}")
        trajectories = [self.trajectories[number] for number in group]
        return student_rows(
            trajectories,
            [rng.randrange(len(trajectory.tokens)) for trajectory in trajectories],
            mask_id=self.mask_id,
            end_id=self.end_id,
            block_length=self.block_length,
            rng=rng,
        )

    def _epoch(self, number: int) -> Iterator[list[int]]:
        """This rank's groups. All ranks cut and shuffle the same list."""
        rng = random.Random(f"{self.seed}/{number}")
        order = list(range(self.held_out, len(self._lengths)))
        rng.shuffle(order)  # The sort keeps it among equal lengths: epochs differ in their groups.
        order.sort(key=self._lengths.__getitem__)
        groups: list[list[int]] = []
        for index in order:
            if not groups or not self._fits([*groups[-1], index]):
                groups.append([])
            groups[-1].append(index)
        rng.shuffle(groups)
        steps = len(groups) // self.world_size
        if not steps:
            raise TrainingError(f"{len(order)} trajectories are too few for {self.world_size} workers")
        return itertools.islice(groups, self.rank, steps * self.world_size, self.world_size)

    def _fits(self, group: list[int]) -> bool:
        states, truths = zip(*(self._lengths[index] for index in group), strict=True)
        return len(group) <= self.max_rows and _tokens(len(group), max(states), max(truths)) <= self.max_tokens


def _row_lengths(trajectory: Trajectory, block_length: int) -> tuple[int, int]:
    """Tokens of a row that holds a state, and of one that holds the ground truth."""
    prompt = len(trajectory.prompt)
    return prompt + len(trajectory.tokens), prompt + truth_canvas(trajectory.truth, block_length)


def _tokens(rows: int, state: int, truth: int) -> int:
    """Tokens of the forwards of y, y* and the masked truth."""
    return rows * (2 * state + truth)
