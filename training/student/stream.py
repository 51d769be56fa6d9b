"""The endless, reproducible sequence of a student's batches: resumable at any batch, split over ranks."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from cdlm.training.batches.stream import resumable
from cdlm.training.batches.two_streams import Truth, masked_answers
from cdlm.training.errors import TrainingError
from cdlm.training.student.rows import StudentBatch, later_blocks, packed_states
from cdlm.training.trajectories.trajectory import Trajectory


class StudentStream:
    """Batches of trajectories of similar length; each epoch uses all in a new order, each in a new state.

    A batch is full when one more trajectory would exceed ``max_rows`` or ``max_tokens``. In each step the ranks take
    different batches: together, those that one rank would take in ``world_size`` steps. Batches that do not fill a step
    for all ranks are left out of the epoch.

    Args:
        trajectories: the trajectories; the first ``held_out`` are not used.
        seed: seed of order, states and masks.
        mask_id: id of a masked position.
        end_id: id that continues the ground truth to whole blocks.
        block_length: tokens per block.
        max_rows: most trajectories per batch.
        max_tokens: most tokens in a batch's forwards, padding included; a fresh truth counts like the trajectory's own.
        first_step: share of the blocks that are fully masked, in addition to those by chance. A decoder that finalizes
            many tokens per step sees that state in every block.
        consistency_share: share of a batch's trajectories used for the consistency loss.
        fresh_truth: (seed, count) -> examples for the masked ground truth; ``None`` uses the trajectories' own.
        truths: masked ground truths per trajectory.
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
        """Yields (epoch, index in the epoch, this rank's batch), starting after ``skip`` batches of ``epoch``."""
        for number, index, group in resumable(self._epoch, epoch, skip):
            yield number, index, self.rows(group, f"{number}/{index * self.world_size + self.rank}")

    def rows(self, group: Sequence[int], visit: str) -> StudentBatch:
        """Builds the batch of trajectories ``group``, in random states; ``visit`` is part of the seed."""
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
        truth, targets, weights = masked_answers(
            examples, mask_id=self.mask_id, end_id=self.end_id, block_length=self.block_length, rng=rng
        )
        return StudentBatch(states, hidden, state, completed, truth, targets, weights)

    def _finalized(self, rng: random.Random) -> int:
        return 0 if rng.random() < self.first_step else rng.randrange(self.block_length)

    def _epoch(self, number: int) -> Iterator[list[int]]:
        """Yields this rank's groups. All ranks group and shuffle the same list."""
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
        """Tokens in the forwards of ``rows`` trajectories; ``longest`` has the longest row of each kind."""
        states, later, truth = longest
        return rows * (states + self.truths * truth) + 2 * math.ceil(self.consistency_share * rows) * later


def _row_lengths(trajectory: Trajectory, block_length: int) -> tuple[int, int, int]:
    """Tokens of a trajectory's packed states, of its y and y*, and of its packed truth."""
    prompt, n = len(trajectory.prompt), len(trajectory.tokens)
    blocks = -(-len(trajectory.truth) // block_length)
    return prompt + 2 * n, prompt + n, prompt + 2 * blocks * block_length
