"""Two-stream rows: a whole text, and beside it the same text with masks in every block (BD3-LM, arXiv 2503.09573)."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from cdlm.training.batches.packed import AskedRows, pack


def draw_masks(
    blocks: int,
    block_length: int,
    *,
    rng: random.Random,
    generator: torch.Generator,
    ratios: tuple[float, float] = (0.0, 1.0),
    spared: int = 0,
) -> tuple[Tensor, Tensor]:
    """Masks each block at a ratio of its own, t ~ U(ratios), at least 1/B, and at least one position of each.

    A smaller t would give less than one mask on average, and a noisy weight 1/t.

    Args:
        spared: the first positions are not masked; fewer than B.

    Returns:
        The masked positions, [blocks, B] bool, and t of each block, [blocks, 1] fp32.
    """
    low, high = ratios
    drawn = [max(low + (high - low) * rng.random(), 1 / block_length) for _ in range(blocks)]
    t = torch.tensor(drawn)[:, None]
    masks = torch.rand(blocks, block_length, generator=generator) < t
    masks[0, :spared] = False
    for number, block in enumerate(masks):
        block[rng.randrange(0 if number else spared, block_length)] |= not block.any()
    return masks, t


def two_streams(
    texts: Sequence[Tensor], hidden: Sequence[Tensor], *, mask_id: int, block_length: int
) -> tuple[AskedRows, Tensor]:
    """Rows [clean text | noisy text].

    A noisy block sees itself and the clean blocks before it, a clean block itself and the clean blocks before it:
    packed rows without a prompt and with one copy. One forward trains every block of a text as the active block.

    Args:
        texts: [n] int64 per row, n a multiple of the block length.
        hidden: [n] bool per row, the masked and asked positions.

    Returns:
        The rows, padded on the right, and the ids at the asked positions, [asked] int64 in row-major order.
    """
    return pack([[] for _ in texts], texts, [each[None] for each in hidden], mask_id=mask_id, block_length=block_length)


def masked_texts(
    texts: Sequence[Sequence[int]],
    *,
    mask_id: int,
    end_id: int,
    block_length: int,
    ratios: tuple[float, float],
    shift: bool,
    rng: random.Random,
) -> tuple[AskedRows, Tensor, Tensor]:
    """Returns two-stream rows of randomly masked texts, the masked ids, and the weight of each.

    Texts are continued with ``end_id`` to whole blocks. A shifted model cannot predict the first token of a text, which
    stays clean; its blocks have two tokens or more.

    Args:
        ratios: bounds of the mask ratio t of a block. Narrow bounds have less variance (BD3-LM, section 5).

    Returns:
        Rows, ids [masked] int64, and weights [masked] fp32: 1 / (t n), divided by the number of texts, n the length.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    canvases, hidden, weights = [], [], []
    for text in texts:
        blocks = -(-len(text) // block_length)
        canvas = torch.full((blocks * block_length,), end_id)
        canvas[: len(text)] = torch.tensor(text)
        masks, t = draw_masks(blocks, block_length, rng=rng, generator=generator, ratios=ratios, spared=int(shift))
        canvases.append(canvas)
        hidden.append(masks.flatten())
        weights.append((1 / (t * len(canvas) * len(texts))).expand_as(masks)[masks])
    rows, targets = two_streams(canvases, hidden, mask_id=mask_id, block_length=block_length)
    return rows, targets, torch.cat(weights)
