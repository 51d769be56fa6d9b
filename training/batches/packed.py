"""Packed rows: one row trains all blocks of an answer as the active block (BD3-LM, arXiv 2503.09573)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Rows of one length L, and the positions whose logits are needed.

    Attributes:
        token_ids: [rows, L] int64.
        positions: [rows, L] int64, for the rotary embedding.
        previous: [rows, L] int64, the index in the row of the position before each; a shifted model predicts from it.
        mask: [rows, L, L] bool, true where a query (second axis) sees a key.
        asked: [rows, L] bool, positions whose logits are needed.
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
    """Packs rows [prompt | clean answer | masked copies of the answer].

    A block of a copy sees the prompt, the clean blocks before it and itself, exactly as a student that denoises that
    block. One forward therefore trains (blocks of the answer * copies) active blocks.

    Args:
        prompts: ids, one list per row; may be empty. A row's first token is its own ``previous``.
        answers: [n] int64 per row, n a multiple of the block length.
        hidden: [copies, n] bool per row, the masked and asked positions of each copy.

    Returns:
        The rows, padded on the right, and the ids at the asked positions, [asked] int64 in row-major order.
    """
    parts = [
        _layout(len(prompt), copies.shape[0], copies.shape[1], block_length)
        for prompt, copies in zip(prompts, hidden, strict=True)
    ]
    positions, previous, block, copy = (pad_sequence(list(part), batch_first=True) for part in zip(*parts, strict=True))
    token_ids, asked = [], []
    for prompt, answer, copies in zip(prompts, answers, hidden, strict=True):
        whole = torch.cat((torch.tensor(prompt, dtype=torch.int64), answer))
        token_ids.append(torch.cat((whole, answer.expand_as(copies).masked_fill(copies, mask_id).flatten())))
        asked.append(torch.cat((torch.zeros_like(whole, dtype=torch.bool), copies.flatten())))
    lengths = torch.tensor([len(ids) for ids in token_ids])[:, None]
    filling = torch.arange(positions.shape[1])[None] >= lengths
    # Padding sees itself, since a softmax over nothing is NaN; nothing else sees padding.
    mask = copies_mask(block.masked_fill(filling, -2), copy.masked_fill(filling, int(copy.max()) + 1))
    targets = torch.cat([answer.expand_as(copies)[copies] for answer, copies in zip(answers, hidden, strict=True)])
    ids = pad_sequence(token_ids, batch_first=True)
    return AskedRows(ids, positions, previous, mask, pad_sequence(asked, batch_first=True)), targets


def copies_mask(block: Tensor, copy: Tensor) -> Tensor:
    """The mask of packed rows.

    Args:
        block: [rows, L] int64, the block of each position, -1 for the prompt.
        copy: [rows, L] int64, the copy of each position, 0 for prompt and clean answer.

    Returns:
        [rows, L, L] bool: a query sees the clean positions of the blocks before its own, and its own block in its own
        copy.
    """
    query_block, key_block = block[:, :, None], block[:, None, :]
    clean = (copy[:, None, :] == 0) & (key_block < query_block)
    return clean | ((copy[:, None, :] == copy[:, :, None]) & (key_block == query_block))


def _layout(prompt: int, copies: int, size: int, block_length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(positions, previous, block, copy), each [1, tokens], of a row of ``prompt + (1 + copies) * size`` tokens."""
    start, offsets = torch.arange(prompt), torch.arange(size)
    block = offsets // block_length
    positions = torch.cat((start, (prompt + offsets).repeat(1 + copies)))
    # The position before a block's first one is clean; inside a block it is the copy's own.
    first = (offsets % block_length == 0)[None]
    copy = torch.arange(1 + copies)[:, None]
    previous = prompt + offsets[None] - 1 + (copy * size).masked_fill(first, 0)
    return (
        positions,
        torch.cat((start - 1, previous.flatten())).clamp_min(0),
        torch.cat((torch.full_like(start, -1), block.repeat(1 + copies))),
        torch.cat((torch.zeros_like(start), copy.expand(-1, size).flatten())),
    )
