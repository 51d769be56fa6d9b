"""The finalization rules: which masked positions of a batch of blocks become tokens in a denoise step."""

import torch
from torch import Tensor

from cdlm.model.decoding.rules import RULES


def choose(
    confidence: Tensor,
    masked: Tensor,
    rule: Tensor,
    limit: Tensor,
    at_least: Tensor,
    entropies: Tensor | None = None,
    leading: Tensor | None = None,
) -> Tensor:
    """Positions to finalize now: those that pass their row's rule, and at least ``at_least`` per row.

    With masked positions ranked 1, 2, ... by descending confidence (``entropy_bound``: by ascending entropy H;
    ``guide``: from left to right):

    - ``threshold``: confidence above the limit.
    - ``factor``: the longest run from rank 1 on with confidence >= 1 - limit / (rank + 1); this bounds the error
      of deciding them together (Fast-dLLM, arXiv 2505.22618).
    - ``entropy_bound``: the longest run with sum(H) - max(H) <= limit (EB-Sampler, arXiv 2505.24857).
    - ``fixed_steps``: exactly ``at_least``, which the caller sets to spread a block evenly over its steps.
    - ``guide``: the first ``leading``, which a guide model counts (``model/forwards/guiding.py``).

    Args:
        confidence: [rows, block] fp32; values at positions that are not masked are ignored.
        masked: [rows, block] bool, positions that have a prediction and no token yet.
        rule: [rows] int64, index into ``RULES``.
        limit: [rows] fp32.
        at_least: [rows] int64 >= 1, how many of the highest ranks pass in any case.
        entropies: [rows, block] fp32 in nats, like ``confidence``; ``None`` if no row has the rule ``entropy_bound``.
        leading: [rows] int64; ``None`` if no row has the rule ``guide``.

    Returns:
        [rows, block] bool, a subset of ``masked``. Equal ranks are ordered from left to right.
    """
    score = confidence
    if entropies is not None:
        score = torch.where(rule[:, None] == RULES.index("entropy_bound"), -entropies, confidence)
    if leading is not None:
        score = score.masked_fill(rule[:, None] == RULES.index("guide"), 0.0)  # The sort is stable.
    ranked, order = score.masked_fill(~masked, float("-inf")).sort(dim=-1, descending=True, stable=True)
    place = torch.arange(masked.shape[1], device=masked.device)  # Rank - 1.
    limits = limit[:, None]
    run = (ranked >= 1.0 - limits / (place + 2)).cumprod(-1).bool()
    passes = torch.where(rule[:, None] == RULES.index("factor"), run, ranked > limits)
    passes = passes & (rule[:, None] != RULES.index("fixed_steps"))
    if entropies is not None:
        # Ascending: the largest entropy of a run is its last, so sum(H) - max(H) is the sum before it.
        before = torch.nn.functional.pad((-ranked).cumsum(-1)[:, :-1], (1, 0))
        passes = torch.where(rule[:, None] == RULES.index("entropy_bound"), before <= limits, passes)
    if leading is not None:
        passes = torch.where(rule[:, None] == RULES.index("guide"), place < leading[:, None], passes)
    passes = passes | (place < at_least[:, None])
    return masked & torch.empty_like(passes).scatter_(-1, order, passes)


def choose_by_threshold(confidence: Tensor, limit: Tensor, at_least: Tensor | int) -> Tensor:
    """``choose`` for rows with the rule ``threshold``, or ``fixed_steps`` (a threshold that no confidence exceeds).

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


def choose_replaced(confidence: Tensor, predicted: Tensor, tokens: Tensor, decided: Tensor, above: Tensor) -> Tensor:
    """Decided positions whose token is replaced now: another one is predicted, with a confidence above the row's
    number.

    confidence, predicted, tokens and decided [rows, block]; above [rows] -> [rows, block] bool.
    """
    return decided & (predicted != tokens) & (confidence > above[:, None])


def first_stop(tokens: Tensor, stop_ids: Tensor, first: Tensor, masked: Tensor) -> Tensor:
    """Offset of each block's first generated stop token, [rows] int64; the block length if there is none.

    Args:
        tokens: [rows, block] int64.
        stop_ids: [rows, stops] int64, padded with -1.
        first: [rows] int64, offset of the first generated position (prompt tokens may precede it).
        masked: [rows, block] bool, positions without a token.
    """
    block = tokens.shape[1]
    positions = torch.arange(block, device=tokens.device)
    stops = (tokens[:, :, None] == stop_ids[:, None, :]).any(-1) & ~masked & (positions >= first[:, None])
    return torch.where(stops, positions, block).amin(dim=-1)
