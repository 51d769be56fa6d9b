"""The endless, reproducible sequence of a student's batches; resumable at any of them, a part of it for each rank."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from cdlm.training.errors import TrainingError
from cdlm.training.student.rows import StudentBatch, Truth, later_blocks, masked_truth, packed_states, whole_blocks
from cdlm.training.trajectories.trajectory import Trajectory


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
        max_tokens: tokens of a batch's forwards, filling included; a fresh truth counts as the trajectory's own does.
        first_step: share of the blocks taken before their first finalization, beside those that a uniform number of
            finalizations brings there. A decoder that finalizes many tokens per step meets that state in every block.
        consistency_share: share of a batch's trajectories whose later blocks are visited too.
        fresh_truth: draws, from a seed, as many examples to take the masked ground truth from; ``None`` takes that of
            the trajectories.
        truths: masked ground truths for each trajectory.
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
        first_step: float = 0.0,
        consistency_share: float = 1.0,
        fresh_truth: Callable[[str, int], Sequence[Truth]] | None = None,
        truths: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.trajectories, self.seed = trajectories, seed
        self.mask_id, self.end_id, self.block_length, self.held_out = mask_id, end_id, block_length, held_out
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.first_step, self.consistency_share, self.fresh_truth = first_step, consistency_share, fresh_truth
        self.truths = truths
        self.rank, self.world_size = rank, world_size
        self._lengths = [_row_lengths(trajectory, block_length) for trajectory in trajectories]
        longest = max((self._tokens(1, lengths) for lengths in self._lengths), default=0)
        if longest > max_tokens:
            raise TrainingError(f"a trajectory takes {longest} tokens, a worker's batch holds {max_tokens:.0f}")

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[int, int, StudentBatch]]:
        """Yields (epoch, index in the epoch, this rank's batch), starting behind ``skip`` batches of ``epoch``."""
        for number in itertools.count(epoch):
            for index, group in enumerate(self._epoch(number)):
                if number > epoch or index >= skip:
                    yield number, index, self.rows(group, f"{number}/{index * self.world_size + self.rank}")

    def rows(self, group: Sequence[int], visit: str) -> StudentBatch:
        """The trajectories numbered ``group``, each after uniform numbers of finalizations; ``visit`` seeds it."""
        rng = random.Random(f"{self.seed}/{visit}")
        trajectories = [self.trajectories[number] for number in group]
        counts = [
            [self._finalized(rng) for _ in range(len(trajectory.tokens) // self.block_length)]
            for trajectory in trajectories
        ]
        ids = {"mask_id": self.mask_id, "block_length": self.block_length}
        states, hidden = packed_states(trajectories, counts, **ids)
        later = trajectories[: math.ceil(self.consistency_share * len(trajectories))]
        state, completed = later_blocks(later, [rng.randrange(len(item.tokens)) for item in later], **ids)
        if self.fresh_truth is None:
            examples: Sequence[Truth] = [(item.prompt, item.truth) for item in trajectories] * self.truths
        else:
            examples = self.fresh_truth(f"{self.seed}/{visit}", self.truths * len(trajectories))
        truth, targets, weights = masked_truth(examples, end_id=self.end_id, rng=rng, **ids)
        return StudentBatch(states, hidden, state, completed, truth, targets, weights)

    def _finalized(self, rng: random.Random) -> int:
        return 0 if rng.random() < self.first_step else rng.randrange(self.block_length)

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
        longest = [max(lengths) for lengths in zip(*(self._lengths[index] for index in group), strict=True)]
        return len(group) <= self.max_rows and self._tokens(len(group), longest) <= self.max_tokens

    def _tokens(self, rows: int, longest: Sequence[int]) -> int:
        """Tokens of the forwards of so many trajectories, of which these are the longest rows of each kind."""
        states, later, truth = longest
        return rows * (states + self.truths * truth) + 2 * math.ceil(self.consistency_share * rows) * later


def _row_lengths(trajectory: Trajectory, block_length: int) -> tuple[int, int, int]:
    """Tokens of a trajectory's packed states, of its y and y*, and of its packed truth."""
    prompt, n = len(trajectory.prompt), len(trajectory.tokens)
    return prompt + 2 * n, prompt + n, prompt + 2 * whole_blocks(len(trajectory.truth), block_length)
