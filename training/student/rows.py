"""Rows of a student's step: state y, state y* and the masked ground truth of some trajectories."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.attention import block_causal_mask
from training.trajectories.states import block_completion, index_sets, state_after
from training.trajectories.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """One visit of some trajectories. The states share rows of length L, the truth has rows of length T.

    A row is [prompt | canvas], filled on the right; no position of it sees the filling.

    Attributes:
        state: [rows, L] int64, y: the canvas after k finalisations.
        completed: [rows, L] int64, y*: the canvas when y's active block has just been completed.
        state_mask: [rows, L, L] bool, what a position of y or y* sees.
        undecided: [rows, L] bool, U: masked in y, filled in y*; at least one a row.
        remaining: [rows, L] bool, S: masked in both.
        teacher_hidden: [|U|, hidden_size], the teacher's states for U, in the order of ``undecided``.
        truth: [rows, T] int64, the ground truth with masks.
        truth_mask: [rows, T, T] bool, what a position of it sees.
        targets: [rows, T] int64, the id under a mask, -1 elsewhere.
        ratios: [rows] fp32, t: the share of the canvas that was to be masked.
        lengths: [rows] int64, Lg: positions of the truth's canvas.
    """

    state: Tensor
    completed: Tensor
    state_mask: Tensor
    undecided: Tensor
    remaining: Tensor
    teacher_hidden: Tensor
    truth: Tensor
    truth_mask: Tensor
    targets: Tensor
    ratios: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> "StudentBatch":
        """The same batch on ``device``."""
        return StudentBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def truth_canvas(truth: Sequence[int], block_length: int) -> int:
    """Positions of the ground truth's canvas: whole blocks."""
    return -(-len(truth) // block_length) * block_length


def student_rows(
    trajectories: Sequence[Trajectory],
    finalised: Sequence[int],
    *,
    mask_id: int,
    end_id: int,
    block_length: int,
    rng: random.Random,
) -> StudentBatch:
    """Rows of all three forwards.

    Args:
        trajectories: one a row.
        finalised: k of each row: its state y has so many finalised positions, 0 <= k < n.
        mask_id: id of a masked position.
        end_id: id that continues the ground truth to whole blocks.
        block_length: tokens in a block.
        rng: draws t ~ U(0, 1), not below 1/Lg: below it a row would expect less than one mask, and the 1/t of
            its loss would be noise. Every position is masked with probability t; if none was, one is.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    states, completions, undecided, remaining, hidden = [], [], [], [], []
    truths, targets, ratios, lengths = [], [], [], []
    for trajectory, k in zip(trajectories, finalised, strict=True):
        prompt = torch.tensor(trajectory.prompt)
        outside = torch.zeros(len(prompt), dtype=torch.bool)
        decided, later = index_sets(trajectory.order, k, block_length)
        completion = block_completion(k, block_length)
        states.append(torch.cat((prompt, state_after(trajectory, k, mask_id))))
        completions.append(torch.cat((prompt, state_after(trajectory, completion, mask_id))))
        undecided.append(torch.cat((outside, decided)))
        remaining.append(torch.cat((outside, later)))
        hidden.append(trajectory.hidden[decided])

        canvas = torch.full((truth_canvas(trajectory.truth, block_length),), end_id)
        canvas[: len(trajectory.truth)] = torch.tensor(trajectory.truth)
        ratio = max(rng.random(), 1 / len(canvas))
        masked = torch.rand(len(canvas), generator=generator) < ratio
        masked[rng.randrange(len(canvas))] |= not masked.any()
        truths.append(torch.cat((prompt, canvas.masked_fill(masked, mask_id))))
        targets.append(torch.cat((torch.full_like(prompt, -1), canvas.masked_fill(~masked, -1))))
        ratios.append(ratio)
        lengths.append(len(canvas))

    prompts = torch.tensor([len(trajectory.prompt) for trajectory in trajectories])
    return StudentBatch(
        state=_filled(states, end_id),
        completed=_filled(completions, end_id),
        state_mask=_visible(prompts, states, block_length),
        undecided=_filled(undecided, False),
        remaining=_filled(remaining, False),
        teacher_hidden=torch.cat(hidden),
        truth=_filled(truths, end_id),
        truth_mask=_visible(prompts, truths, block_length),
        targets=_filled(targets, -1),
        ratios=torch.tensor(ratios),
        lengths=torch.tensor(lengths),
    )


def _filled(rows: list[Tensor], value: float) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _visible(prompts: Tensor, rows: list[Tensor], block_length: int) -> Tensor:
    """[rows, L, L] bool: block-causal, and no key behind the end of a row."""
    lengths = torch.tensor([len(row) for row in rows])
    length = int(lengths.max())
    return block_causal_mask(prompts, block_length, length) & (torch.arange(length) < lengths[:, None])[:, None]
