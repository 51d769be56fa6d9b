"""Rows of a step: whole texts, and groups of masked rows behind some of their tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cdlm.training.batches.rows import Example


@dataclass(frozen=True, slots=True)
class DraftRows:
    """Texts of one padded length n, and G groups of K masked rows behind known tokens of each.

    The group behind position q stands at positions q + 1 .. q + K. Its row at p predicts the token at p + 1, as the
    unmasked row at p does. Groups come in pairs: the second group of a pair begins where tokens of the first group's
    window are known already.

    Attributes:
        token_ids: [rows, n] int64, padded on the right.
        known: [rows, G] int64, the position q of each group's last known token.
        asked: [rows, G, K] bool, masked rows whose next token is in the text; none of a group that is padding.
        window: K.
    """

    token_ids: Tensor
    known: Tensor
    asked: Tensor
    window: int

    @property
    def positions(self) -> Tensor:
        """Positions of the masked rows, [rows, G, K] int64."""
        return self.known[..., None] + 1 + torch.arange(self.window)

    @property
    def mask(self) -> Tensor:
        """[rows, G * K, n + G * K] bool: a masked row sees the text up to its known token, the rows of its group before
        it, and itself. Groups may therefore be shorter when they are served.
        """
        rows, groups = self.known.shape
        text = torch.arange(self.token_ids.shape[1]) <= self.known[..., None]  # [rows, G, n]
        before = torch.ones(self.window, self.window).tril()
        own = torch.kron(torch.eye(groups), before).bool().expand(rows, -1, -1)
        return torch.cat((text.repeat_interleave(self.window, 1), own), -1)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Asked rows of the first and of the second group of each pair that stand at the same position.

        Returns:
            Two index tensors [n] int64 into the flattened [rows * G * K], in the same order.
        """
        index = torch.arange(self.asked.numel()).view(self.asked.shape)
        first, second = self.positions[:, ::2], self.positions[:, 1::2]
        same = first[..., :, None] == second[..., None, :]
        same &= self.asked[:, ::2, :, None] & self.asked[:, 1::2, None, :]
        shape = same.shape
        return index[:, ::2, :, None].expand(shape)[same], index[:, 1::2, None, :].expand(shape)[same]


def can_draft(example: Example) -> bool:
    """Whether a group fits: behind its known token stands a token that predicts another one of the answer."""
    return len(example.answer) > 1


def draft_rows(examples: Sequence[Example], *, window: int, groups: int, pad_id: int, rng: random.Random) -> DraftRows:
    """Draws where groups stand: the known token is the prompt's last or one of the answer.

    In a pair the second known token is 1 to ``window`` - 1 positions behind the first; if the window or the text is too
    short for that, the second group is drawn by itself. All texts must pass ``can_draft``.
    """
    texts = [torch.tensor(example.prompt + example.answer) for example in examples]
    known = torch.zeros(len(examples), groups, dtype=torch.int64)
    for row, example in enumerate(examples):
        first, last = len(example.prompt) - 1, example.length - 3  # Position ``length - 2`` predicts the last token.
        for group in range(groups):
            behind = int(known[row, group - 1]) if group % 2 else last
            farthest = min(last, behind + window - 1)
            known[row, group] = rng.randint(behind + 1, farthest) if farthest > behind else rng.randint(first, last)
    lengths = torch.tensor([len(text) for text in texts])
    positions = known[..., None] + 1 + torch.arange(window)
    asked = positions < lengths[:, None, None] - 1
    return DraftRows(pad_sequence(texts, batch_first=True, padding_value=pad_id), known, asked, window)
