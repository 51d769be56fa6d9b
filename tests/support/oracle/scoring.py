"""Scores of a prompt: one forward per token, nothing reused."""

from typing import Any

import torch
from torch import Tensor

from tests.support.oracle.mask import mask_token
from tests.support.oracle.network import hidden_states, visibility


def score_prompt(weights: dict[str, Tensor], shape: Any, manifest: Any, prompt: list[int]) -> list[Tensor]:
    """Log-probabilities [vocab] of every prompt token but the first: one forward per token, nothing reused.

    The prompt is taken as blocks from position 0; token i is predicted from all tokens before its block, and its block
    with itself and what follows masked.
    """
    block = manifest.block_length
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    mask, banned = mask_token(manifest, len(head))
    found = []
    for position in range(1, len(prompt)):
        end = position // block * block + block
        ids = torch.tensor(prompt[:position] + [mask] * (end - position))
        sees = visibility(end, 0, manifest.prompt_attention, block, manifest.commit_attention)
        hidden = hidden_states(weights, shape, ids, sees)
        first = manifest.first_token == "autoregressive" and position % block == 0
        logits = head @ hidden[position - 1 if manifest.shift or first else position]
        logits[banned] = float("-inf")
        found.append(logits.log_softmax(-1))
    return found


def score_slots(
    weights: dict[str, Tensor], shape: Any, manifest: Any, prompt: list[int], slots: list[int]
) -> list[Tensor]:
    """Log-probabilities [vocab] at the ``slots`` of a prompt, all masked at once, in one forward.

    The prompt is taken as blocks from position 0, the last one filled up with masks. Blocks before the token that
    predicts the first slot are finished; from there on a position sees its whole block and all before it, slots masked.
    """
    block = manifest.block_length
    head = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    mask, banned = mask_token(manifest, len(head))
    end = -(-len(prompt) // block) * block
    ids = torch.tensor(prompt + [mask] * (end - len(prompt)))
    ids[slots] = mask
    sees = visibility(end, 0, manifest.prompt_attention, block, manifest.commit_attention)
    for query in range((slots[0] - 1) // block * block, end):
        sees[query] = torch.arange(end) < query // block * block + block
    hidden = hidden_states(weights, shape, ids, sees)
    found = []
    for position in slots:
        first = manifest.first_token == "autoregressive" and position % block == 0
        logits = head @ hidden[position - 1 if manifest.shift or first else position]
        logits[banned] = float("-inf")
        found.append(logits.log_softmax(-1))
    return found
