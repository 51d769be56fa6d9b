"""The finalization rules: which masked positions of a batch of blocks become tokens in a denoise step."""

import torch
from torch import Tensor

from cdlm.model.decoding.rules import RULES


def choose(
    confidence: Tensor, masked: Tensor, rule: Tensor, limit: Tensor, at_least: Tensor, entropies: Tensor | None = None
) -> Tensor:
    """Positions to finalize now: those that pass their row's rule, and never fewer than ``at_least``.

    With masked positions ranked 1, 2, ... by descending confidence (``entropy_bound``: ascending entropy H):

    - ``threshold``: confidence above the limit.
    - ``factor``: the longest run from rank 1 on with confidence >= 1 - limit / (rank + 1); this bounds the error
      of deciding them together (Fast-dLLM, arXiv 2505.22618).
    - ``entropy_bound``: the longest run with sum(H) - max(H) <= limit (EB-Sampler, arXiv 2505.24857).
    - ``fixed_steps``: ``at_least`` of them and no more; the caller spreads a block over its steps with that.

    Args:
        confidence: [rows, block] fp32, anything at positions that are not masked.
        masked: [rows, block] bool, positions that have a prediction and no token yet.
        rule: [rows] int64, index into ``RULES``.
        limit: [rows] fp32.
        at_least: [rows] int64 >= 1, how many of the highest ranks pass regardless.
        entropies: [rows, block] fp32 in nats, like ``confidence``; may be left out when no row needs it.

    Returns:
        [rows, block] bool, a subset of ``masked``. Equal ranks are ordered from left to right.
    """
    score = confidence
    if entropies is not None:
        score = torch.where(rule[:, None] == RULES.index("entropy_bound"), -entropies, confidence)
    ranked, order = score.masked_fill(~masked, float("-inf")).sort(dim=-1, descending=True, stable=True)
    place = torch.arange(masked.shape[1], device=masked.device)  # Rank - 1.
    limits = limit[:, None]
    run = (ranked >= 1.0 - limits / (place + 2)).cumprod(-1).bool()
    passes = torch.where(rule[:, None] == RULES.index("factor"), run, ranked > limits)
    passes = passes & (rule[:, None] != RULES.index("fixed_steps"))
    if entropies is not None:
        # Sorted upwards, the largest entropy is the last one: the rest is what lies before it.
        before = torch.nn.functional.pad((-ranked).cumsum(-1)[:, :-1], (1, 0))
        passes = torch.where(rule[:, None] == RULES.index("entropy_bound"), before <= limits, passes)
    passes = passes | (place < at_least[:, None])
    return masked & torch.empty_like(passes).scatter_(-1, order, passes)


def choose_by_threshold(confidence: Tensor, limit: Tensor, at_least: Tensor | int) -> Tensor:
    """``choose`` where every row has the rule ``threshold`` or ``fixed_steps``, whose limit no confidence exceeds.

    confidence [rows, block] fp32, 0 at positions that may not be finalized; limit [rows]; at_least [rows] int64, or the
    same number for all rows -> [rows, block] bool.
    """
    now = confidence > limit[:, None]
    if isinstance(at_least, int) and at_least == 1:
        return now.scatter_(1, confidence.argmax(-1, keepdim=True), True)
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    if isinstance(at_least, int):
        now.scatter_(1, order[:, :at_least], True)
    else:
        first = torch.arange(confidence.shape[1], device=confidence.device) < at_least[:, None]
        now.logical_or_(torch.empty_like(now).scatter_(1, order, first))
    return now.logical_and_(confidence > 0)


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
