"""Training rows of the next-token stage and the teacher stage."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.training.batches.attention import RowAttention, causal_mask
from cdlm.training.batches.packed import pack

SMALLEST_RATIO = 0.1  # Lower ratios would train almost no position.


@dataclass(frozen=True, slots=True)
class Example:
    """Prompt and answer ids; the answer ends with one end token."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        """Tokens of prompt plus answer."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of one length L.

    Attributes:
        token_ids: [rows, L] int64.
        attention: the attention with the rows' mask.
        targets: [rows, L] int64, the id to predict at each position, -1 at positions that are not asked.
        weights: [rows, L] fp32, the loss weight of each asked position.
        row_positions: [rows, L] int64, rotary positions; ``None`` means 0 .. L - 1.
        previous: [rows, L] int64, the index in the row of the position before each; ``None`` means index - 1.
    """

    token_ids: Tensor
    attention: RowAttention
    targets: Tensor
    weights: Tensor
    row_positions: Tensor | None = None
    previous: Tensor | None = None

    @property
    def positions(self) -> Tensor:
        """Rotary positions, [rows or 1, L] int64."""
        return self.row_positions if self.row_positions is not None else torch.arange(self.token_ids.shape[1])[None]


def next_token_rows(examples: list[Example], *, pad_id: int) -> RowBatch:
    """Rows for next-token training: causal, padded on the right, with all tokens of the answer asked."""
    length = max(example.length for example in examples)
    token_ids = torch.full((len(examples), length), pad_id)
    targets = torch.full((len(examples), length), -1)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), example.length
        token_ids[row, :end] = torch.tensor(example.prompt + example.answer)
        targets[row, start:end] = token_ids[row, start:end]
    return RowBatch(token_ids, RowAttention(causal_mask(length)), targets, torch.ones(targets.shape))


def masked_rows(
    examples: list[Example],
    *,
    mask_id: int,
    end_id: int,
    generation_length: int,
    block_length: int,
    rng: random.Random,
    budget: float = float("inf"),
) -> RowBatch:
    """Rows for a bidirectional teacher: the answer, continued with end tokens, is partly masked.

    Answers are continued with end tokens until all rows of the batch have one length; the continuation is part of the
    canvas, as when decoding ``generation_length`` tokens. A row is one of:

    - a quarter: every position is masked with one ratio t ~ U(0, 1), and asked;
    - a quarter: a random block is active, masked with ratio t and asked; blocks before it are clean, later ones are
      masked and not asked;
    - half: the same, but the active block is clean up to a random position and masked from there on, in half of these
      rows with some positions filled in: the usual states of a decoder that finalizes one token per step.

    Loss weights are ``frontier_weights``. Canvases are as long as the longest example needs, in a quarter of the
    batches longer, up to ``generation_length``; examples that would then exceed ``budget`` tokens are left out.
    """
    longest = max(example.length for example in examples)
    room = max(0, min(len(example.prompt) for example in examples) + generation_length - longest)
    length = longest + (rng.randint(0, room) if rng.random() < 0.25 else 0)
    examples = examples[: int(max(1, min(len(examples), budget // length)))]
    token_ids = torch.full((len(examples), length), end_id)
    targets = torch.full((len(examples), length), -1)
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        start = len(example.prompt)
        token_ids[row, : example.length] = torch.tensor(example.prompt + example.answer)
        hidden, asked = _masks(len(example.answer), length - start, block_length, rng)
        targets[row, start:] = token_ids[row, start:].masked_fill(~asked, -1)
        weights[row, start:] = frontier_weights(hidden)
        token_ids[row, start:].masked_fill_(hidden, mask_id)
    return RowBatch(token_ids, RowAttention(None), targets, weights)


def frontier_weights(hidden: Tensor) -> Tensor:
    """Loss weights: hidden [n] bool -> [n] fp32; a position with d masks directly before it weighs (1 + d)^-0.5.

    The first mask of a run is nearly determined by the known tokens, and decides the next step of a decoder; later ones
    are mostly noise.
    """
    offsets = torch.arange(len(hidden))
    last_known = torch.where(hidden, -1, offsets).cummax(0).values
    before = torch.cat((torch.tensor([-1]), last_known[:-1]))
    return (offsets - before).float() ** -0.5


def block_rows(
    examples: list[Example], *, mask_id: int, end_id: int, block_length: int, copies: int, rng: random.Random
) -> RowBatch:
    """Packed rows under the block-causal mask (``pack``). Answers are continued with end tokens to whole blocks.

    A block of a copy is fully masked (a quarter of the blocks), or clean up to a random position and masked after it
    with a few positions filled in (a third), or masked with one ratio t ~ U(0, 1). Loss weights are
    ``frontier_weights``.
    """
    answers, hidden = [], []
    for example in examples:
        blocks = -(-len(example.answer) // block_length)
        answers.append(torch.full((blocks * block_length,), end_id))
        answers[-1][: len(example.answer)] = torch.tensor(example.answer)
        masks = torch.cat([_block_mask(block_length, rng) for _ in range(copies * blocks)])
        hidden.append(masks.view(copies, -1))
    prompts = [example.prompt for example in examples]
    rows, truth = pack(prompts, answers, hidden, mask_id=mask_id, block_length=block_length)
    targets = torch.full(rows.token_ids.shape, -1)
    targets[rows.asked] = truth
    weights = torch.zeros(targets.shape)
    # Earlier blocks are clean for a block: runs of masks end at block borders.
    parts = [part for masks in hidden for part in masks.view(-1, block_length)]
    weights[rows.asked] = torch.cat([frontier_weights(part)[part] for part in parts])
    return RowBatch(rows.token_ids, RowAttention(rows.mask), targets, weights, rows.positions, rows.previous)


def _block_mask(block_length: int, rng: random.Random) -> Tensor:
    """[block_length] bool: the masked positions of a block; at least one."""
    kind = rng.random()
    if kind < 0.25:
        return torch.ones(block_length, dtype=torch.bool)
    draw = torch.tensor([rng.random() for _ in range(block_length)])
    if kind < 0.58:
        filled = rng.uniform(0.0, 0.5) if rng.random() < 0.5 else 0.0
        hidden = (torch.arange(block_length) >= rng.randrange(block_length)) & (draw >= filled)
    else:
        hidden = draw < rng.random()
    hidden[rng.randrange(block_length)] |= not hidden.any()
    return hidden


def frontier_rows(examples: list[Example], *, mask_id: int, block_length: int, rng: random.Random) -> RowBatch:
    """Packed rows in which each block asks only for the token after a clean start of random length."""
    length = max(len(example.prompt) + -(-len(example.answer) // block_length) * block_length for example in examples)
    token_ids = torch.full((len(examples), length), mask_id)
    targets = torch.full((len(examples), length), -1)
    for row, example in enumerate(examples):
        at = len(example.prompt) + rng.randrange(len(example.answer))
        ids = torch.tensor(example.prompt + example.answer)
        token_ids[row, :at] = ids[:at]
        targets[row, at] = ids[at]
    return RowBatch(token_ids, RowAttention(None), targets, torch.ones(targets.shape))


def _masks(answer: int, canvas: int, block_length: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Draws one kind of ``masked_rows``; returns the masked positions and the asked ones, [canvas] bool each."""
    draw = torch.tensor([rng.random() for _ in range(canvas)])
    kind, ratio = rng.random(), rng.uniform(SMALLEST_RATIO, 1.0)
    if kind < 0.25:
        hidden = draw < ratio
        return hidden, hidden
    offsets = torch.arange(canvas)
    block = offsets // block_length
    active = rng.randrange(-(-answer // block_length))
    inside = block == active
    if kind < 0.5:
        asked = inside & (draw < ratio)
    else:
        filled = rng.uniform(0.0, 0.5) if rng.random() < 0.5 else 0.0
        asked = inside & (offsets >= active * block_length + rng.randrange(block_length)) & (draw >= filled)
    return asked | (block > active), asked
