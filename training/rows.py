"""Training rows of the two stages that come before a student: next-token rows and masked rows."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from training.attention import RowAttention, causal_mask

SMALLEST_RATIO = 0.1  # Bounds the weight 1 / t of a single row.


@dataclass(frozen=True, slots=True)
class Example:
    """Prompt and answer ids; the answer ends with one end token."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of one length L.

    Attributes:
        token_ids: [rows, L] int64.
        attention: what each row's queries see.
        targets: [rows, L] int64: the id to predict for a position, -1 where nothing is asked.
        weights: [rows] fp32: what an asked position of a row counts.
    """

    token_ids: Tensor
    attention: RowAttention
    targets: Tensor
    weights: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that go through the forward, filling included."""
        return self.token_ids.numel()

    @property
    def positions(self) -> Tensor:
        """[1, L] int64: rows start at position 0."""
        return torch.arange(self.token_ids.shape[1])[None]


def next_token_rows(examples: list[Example], *, pad_id: int) -> RowBatch:
    """Rows for next-token training: causal, filled on the right, the answer's tokens are asked."""
    length = max(example.length for example in examples)
    token_ids = torch.full((len(examples), length), pad_id)
    targets = torch.full((len(examples), length), -1)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), example.length
        token_ids[row, :end] = torch.tensor(example.prompt + example.answer)
        targets[row, start:end] = token_ids[row, start:end]
    return RowBatch(token_ids, RowAttention(causal_mask(length)), targets, torch.ones(len(examples)))


def masked_rows(
    examples: list[Example], *, mask_id: int, end_id: int, generation_length: int, block_length: int, rng: random.Random
) -> RowBatch:
    """Rows for a bidirectional teacher: the answer, continued with end tokens, is partly masked.

    Answers are continued so that all rows of the batch have one length; the continuation is part of the
    canvas, as it is when decoding ``generation_length`` tokens. Half of the rows mask every position with one
    ratio t ~ U(0, 1); the other half look like a step of block-wise decoding: blocks before a random one are
    clean, it is masked with ratio t and asked, and everything behind it is masked and not asked. A position
    counts 1 / t, as in the likelihood bound of masked diffusion (LLaDA, arXiv 2502.09992, equation 3).
    """
    longest = max(example.length for example in examples)
    room = max(0, min(len(example.prompt) for example in examples) + generation_length - longest)
    length = longest + (rng.randint(0, room) if rng.random() < 0.5 else 0)
    token_ids = torch.full((len(examples), length), end_id)
    targets = torch.full((len(examples), length), -1)
    ratios = torch.tensor([rng.uniform(SMALLEST_RATIO, 1.0) for _ in examples])
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    for row, example in enumerate(examples):
        start = len(example.prompt)
        token_ids[row, : example.length] = torch.tensor(example.prompt + example.answer)
        offsets = torch.arange(length - start)
        asked = hidden = torch.rand(length - start, generator=generator) < ratios[row]
        if rng.random() < 0.5:
            active = rng.randrange(-(-len(example.answer) // block_length))
            block = offsets // block_length
            asked = hidden & (block == active)
            hidden = asked | (block > active)
        targets[row, start:] = token_ids[row, start:].masked_fill(~asked, -1)
        token_ids[row, start:].masked_fill_(hidden, mask_id)
    return RowBatch(token_ids, RowAttention(None), targets, 1 / ratios)
