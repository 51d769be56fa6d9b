"""Rows of a student's step: states of trajectories, and their later blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cdlm.training.batches.attention import block_causal_mask
from cdlm.training.batches.packed import AskedRows, pack
from cdlm.training.trajectories.states import block_completion, index_sets, state_after
from cdlm.training.trajectories.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """The rows of one training step.

    Attributes:
        states: packed rows, one per trajectory. Each block of the copy is the active block of its own state y; the
            asked positions are U: masked in y, filled in y*.
        teacher_hidden: [|U|, hidden_size], the teacher's states for U.
        state: rows [prompt | canvas] of the trajectories used for consistency, in state y after k finalizations; the
            asked positions are S: masked in y and in y*.
        completed: [rows, L] int64, y*: the same rows when y's active block has just been completed.
        truth: packed rows of the ground truth; the masked positions are asked.
        targets: [masked] int64, the ids at these positions.
        target_weights: [masked] fp32, see ``masked_likelihood``.
    """

    states: AskedRows
    teacher_hidden: Tensor
    state: AskedRows
    completed: Tensor
    truth: AskedRows
    targets: Tensor
    target_weights: Tensor

    def to(self, device: torch.device) -> "StudentBatch":
        """The same batch on ``device``."""
        return StudentBatch(
            self.states.to(device),
            self.teacher_hidden.to(device),
            self.state.to(device),
            self.completed.to(device),
            self.truth.to(device),
            self.targets.to(device),
            self.target_weights.to(device),
        )


def packed_states(
    trajectories: Sequence[Trajectory], finalized: Sequence[Sequence[int]], *, mask_id: int, block_length: int
) -> tuple[AskedRows, Tensor]:
    """Packs one state per block of each trajectory.

    In a block's states all earlier blocks are clean, and nothing sees a later block: all states of a trajectory can
    share one row.

    Args:
        finalized: per trajectory and block, the number of finalizations within the block before its state.

    Returns:
        The rows, asked at U of every state, and the teacher's hidden states of U, [|U|, hidden_size].
    """
    hidden = []
    for trajectory, counts in zip(trajectories, finalized, strict=True):
        undecided = torch.zeros(len(trajectory.order), dtype=torch.bool)
        for block, count in enumerate(counts):
            undecided |= index_sets(trajectory.order, block * block_length + count, block_length)[0]
        hidden.append(undecided[None])
    prompts = [trajectory.prompt for trajectory in trajectories]
    tokens = [trajectory.tokens for trajectory in trajectories]
    rows, _ = pack(prompts, tokens, hidden, mask_id=mask_id, block_length=block_length)
    states = [trajectory.hidden[masks[0]] for trajectory, masks in zip(trajectories, hidden, strict=True)]
    return rows, torch.cat(states)


def later_blocks(
    trajectories: Sequence[Trajectory], finalized: Sequence[int], *, mask_id: int, block_length: int
) -> tuple[AskedRows, Tensor]:
    """Returns rows in state y after k = ``finalized`` finalizations, asked at S, and the ids of y*, [rows, L] int64."""
    states, completions, remaining = [], [], []
    for trajectory, k in zip(trajectories, finalized, strict=True):
        prompt = torch.tensor(trajectory.prompt)
        completion = block_completion(k, block_length)
        states.append(torch.cat((prompt, state_after(trajectory, k, mask_id))))
        completions.append(torch.cat((prompt, state_after(trajectory, completion, mask_id))))
        later = index_sets(trajectory.order, k, block_length)[1]
        remaining.append(torch.cat((torch.zeros(len(prompt), dtype=torch.bool), later)))
    ids = pad_sequence(states, batch_first=True)
    length = ids.shape[1]
    prompts = torch.tensor([len(trajectory.prompt) for trajectory in trajectories])
    lengths = torch.tensor([len(state) for state in states])
    positions = torch.arange(length).expand_as(ids)
    mask = block_causal_mask(prompts, block_length, length) & (torch.arange(length) < lengths[:, None])[:, None]
    asked = pad_sequence(remaining, batch_first=True)
    rows = AskedRows(ids, positions, (positions - 1).clamp_min(0), mask, asked)
    return rows, pad_sequence(completions, batch_first=True)
