"""Packed rows: every block of an answer is the active one at the same time (BD3-LM, arXiv 2503.09573)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Rows of one length L, and the positions whose logits are wanted.

    Attributes:
        token_ids: [rows, L] int64.
        positions: [rows, L] int64, for the rotary embedding.
        previous: [rows, L] int64, the index in the row of the state before each position; a shifted model predicts
            from there.
        mask: [rows, L, L] bool, true where a query (second axis) sees a key.
        asked: [rows, L] bool.
    """

    token_ids: Tensor
    positions: Tensor
    previous: Tensor
    mask: Tensor
    asked: Tensor

    def to(self, device: torch.device) -> "AskedRows":
        """The same rows on ``device``."""
        return AskedRows(*(getattr(self, field.name).to(device) for field in fields(self)))


def pack(
    prompts: Sequence[list[int]],
    answers: Sequence[Tensor],
    hidden: Sequence[Tensor],
    *,
    mask_id: int,
    block_length: int,
) -> tuple[AskedRows, Tensor]:
    """Rows of prompt, clean answer, and copies of the answer with masks.

    A block of a copy sees the prompt, the clean blocks before it and itself, exactly what a student sees while it
    denoises that block. So one forward asks as many active blocks as the answer has, times the copies.

    Args:
        prompts: ids, one list a row.
        answers: [n] int64 a row, n a multiple of the block length.
        hidden: [copies, n] bool a row, what the copies mask and ask for.

    Returns:
        The rows, filled up on the right, and the ids at the asked positions, [asked] int64 in row-major order.
    """
    parts = [
        _layout(len(prompt), copies.shape[0], copies.shape[1], block_length)
        for prompt, copies in zip(prompts, hidden, strict=True)
    ]
    positions, previous, block, copy = (pad_sequence(list(part), batch_first=True) for part in zip(*parts, strict=True))
    token_ids, asked = [], []
    for prompt, answer, copies in zip(prompts, answers, hidden, strict=True):
        whole = torch.cat((torch.tensor(prompt), answer))
        token_ids.append(torch.cat((whole, answer.expand_as(copies).masked_fill(copies, mask_id).flatten())))
        asked.append(torch.cat((torch.zeros_like(whole, dtype=torch.bool), copies.flatten())))
    lengths = torch.tensor([len(ids) for ids in token_ids])[:, None]
    filling = torch.arange(positions.shape[1])[None] >= lengths
    # The filling sees itself, for a softmax over nothing is not a number, and nobody sees it.
    mask = copies_mask(block.masked_fill(filling, -2), copy.masked_fill(filling, int(copy.max()) + 1))
    targets = torch.cat([answer.expand_as(copies)[copies] for answer, copies in zip(answers, hidden, strict=True)])
    ids = pad_sequence(token_ids, batch_first=True)
    return AskedRows(ids, positions, previous, mask, pad_sequence(asked, batch_first=True)), targets


def copies_mask(block: Tensor, copy: Tensor) -> Tensor:
    """What the positions of packed rows see.

    Args:
        block: [rows, L] int64, the block a position lies in, -1 for the prompt.
        copy: [rows, L] int64, 0 for the prompt and the clean answer, else the number of the copy.

    Returns:
        [rows, L, L] bool: a query sees the clean positions of the blocks before its own, and its own block in its own
        copy.
    """
    query_block, key_block = block[:, :, None], block[:, None, :]
    clean = (copy[:, None, :] == 0) & (key_block < query_block)
    return clean | ((copy[:, None, :] == copy[:, :, None]) & (key_block == query_block))


def _layout(prompt: int, copies: int, size: int, block_length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """positions, previous, block and copy of a row of ``prompt + (1 + copies) * size`` tokens, as in ``pack``."""
    start, offsets = torch.arange(prompt), torch.arange(size)
    block = offsets // block_length
    positions = torch.cat((start, (prompt + offsets).repeat(1 + copies)))
    # The state before the first position of a block is the last clean one; inside a block it is the copy's own.
    first = (offsets % block_length == 0)[None]
    copy = torch.arange(1 + copies)[:, None]
    previous = prompt + offsets[None] - 1 + (copy * size).masked_fill(first, 0)
    return (
        positions,
        torch.cat(((start - 1).clamp_min(0), previous.flatten())),
        torch.cat((torch.full_like(start, -1), block.repeat(1 + copies))),
        torch.cat((torch.zeros_like(start), copy.expand(-1, size).flatten())),
    )
