"""The finalisation rule: which masked positions of a batch of blocks become tokens in a denoise step."""

import torch
from torch import Tensor


def confidence_and_best(logits: Tensor, mask_token_id: int) -> tuple[Tensor, Tensor]:
    """The most probable token of each row and its softmax probability, without building the softmax.

    ``logits`` [rows, vocab] is changed in place: the mask token can never be generated. Returns confidence
    [rows] fp32 and token [rows] int64.
    """
    logits[:, mask_token_id] = float("-inf")
    top, token = logits.max(dim=-1)
    confidence = (top.float() - torch.logsumexp(logits.float(), dim=-1)).exp()
    return confidence, token


def choose(confidence: Tensor, masked: Tensor, threshold: Tensor, at_least: Tensor) -> Tensor:
    """Positions to finalise now: confidence above the threshold, and never fewer than ``at_least``.

    Args:
        confidence: [rows, block] fp32, anything at positions that are not masked.
        masked: [rows, block] bool, positions that have a prediction and no token yet.
        threshold: [rows] fp32.
        at_least: [rows] int64 >= 1, how many of the most confident masked positions pass regardless.

    Returns:
        [rows, block] bool, a subset of ``masked``. Equal confidences are ordered from left to right.
    """
    ranked = confidence.masked_fill(~masked, -1.0)
    rank = ranked.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1, stable=True)
    return masked & ((confidence > threshold[:, None]) | (rank < at_least[:, None]))


def frontier(masked: Tensor) -> Tensor:
    """Length of the finalised left prefix: masked [rows, block] bool -> [rows] int64."""
    block = masked.shape[1]
    positions = torch.arange(block, device=masked.device)
    return torch.where(masked, positions, block).amin(dim=-1)


def first_stop(tokens: Tensor, stop_ids: Tensor, first: Tensor, masked: Tensor) -> Tensor:
    """Where each block's first generated stop token lies; the block length where there is none.

    Args:
        tokens: [rows, block] int64.
        stop_ids: [rows, stops] int64, padded with -1.
        first: [rows] int64, where generated positions begin (the tail of a prompt may precede them).
        masked: [rows, block] bool, positions without a token.
    """
    block = tokens.shape[1]
    positions = torch.arange(block, device=tokens.device)
    stops = (tokens[:, :, None] == stop_ids[:, None, :]).any(-1) & ~masked & (positions >= first[:, None])
    return torch.where(stops, positions, block).amin(dim=-1)
