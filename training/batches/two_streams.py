"""Answers or whole texts, and beside them the same with masks in every block (BD3-LM, arXiv 2503.09573)."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from cdlm.training.batches.packed import AskedRows, pack

Truth = tuple[Sequence[int], Sequence[int]]
"""Prompt and answer ids; the answer ends with one end token."""


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


def masked_answers(
    examples: Sequence[Truth],
    *,
    mask_id: int,
    end_id: int,
    block_length: int,
    rng: random.Random,
    ratios: tuple[float, float] = (0.0, 1.0),
    spared: int = 0,
) -> tuple[AskedRows, Tensor, Tensor]:
    """Returns packed rows of randomly masked answers, the masked ids, and their weights for ``masked_likelihood``.

    Answers are continued with ``end_id`` to whole blocks. An answer without a prompt is a text, and its row has two
    streams, [clean text | noisy text]: a noisy block sees itself and the clean blocks before it, a clean block itself
    and the clean blocks before it. One forward trains every block of a text as the active block.

    Args:
        ratios: bounds of the mask ratio t of a block. Narrow bounds have less variance (BD3-LM, section 5).
        spared: see ``draw_masks``. A shifted model cannot predict the first token of a text; its blocks have two tokens
            or more.

    Returns:
        Rows, ids [masked] int64, and weights [masked] fp32: 1 / (t n), divided by the number of examples, n the length
        of the continued answer.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    canvases, hidden, weights = [], [], []
    for _, answer in examples:
        blocks = -(-len(answer) // block_length)
        canvas = torch.full((blocks * block_length,), end_id)
        canvas[: len(answer)] = torch.tensor(answer)
        masks, t = draw_masks(blocks, block_length, rng=rng, generator=generator, ratios=ratios, spared=spared)
        canvases.append(canvas)
        hidden.append(masks.view(1, -1))
        weights.append((1 / (t * len(canvas) * len(examples))).expand_as(masks)[masks])
    prompts = [list(prompt) for prompt, _ in examples]
    rows, targets = pack(prompts, canvases, hidden, mask_id=mask_id, block_length=block_length)
    return rows, targets, torch.cat(weights)
