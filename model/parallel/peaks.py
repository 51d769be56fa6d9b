"""The most probable tokens of a vocabulary that is split over ranks: each rank sends its own, not its logits."""

import torch
from torch import Tensor

from cdlm.model.network.head import LmHead, Peaks, Search


def peaks_of_share(hidden: Tensor, head: LmHead, search: Search, mask_token_id: int, first: int, count: int) -> Peaks:
    """The peaks among the ``count`` tokens from id ``first`` on, which are the first rows of ``head``.

    If none of them may be taken, confidences are NaN and logits -inf.
    """
    if count <= 0:
        nothing = hidden.new_full((len(hidden),), float("-inf"), dtype=torch.float32)
        return Peaks(torch.full_like(nothing, float("nan")), torch.zeros_like(nothing, dtype=torch.int64), nothing)
    if count < head.out_features:
        head = _first_rows(head, count)
    inside = mask_token_id - first
    found = search(hidden, head, inside if 0 <= inside < count else count)
    return found._replace(token=found.token + first)


def packed(peaks: Peaks) -> Tensor:
    """The peaks as [3, rows] float64, which holds fp32 and ids without rounding."""
    return torch.stack([each.double() for each in peaks])


def combined(parts: list[Tensor]) -> Peaks:
    """The peaks among the tokens of all ranks, whose ``packed`` peaks are in the order of their ids."""
    confidence, token, top = torch.stack(parts, dim=1)  # Each [ranks, rows].
    best, rank = top.max(dim=0)  # Of equal logits the first, which has the lowest id.
    # Within its share, the sum of exponentials relative to the largest is 1 / (softmax probability of the largest).
    shares = (top - best).exp() / confidence
    total = torch.where(top == float("-inf"), 0.0, shares).sum(dim=0)
    probability = torch.where(best.isfinite(), total.reciprocal(), float("nan"))
    return Peaks(probability.float(), token.gather(0, rank[None])[0].long(), best.float())


def _first_rows(head: LmHead, count: int) -> LmHead:
    with torch.device("meta"):
        cut = LmHead(head.in_features, count, bias=False)
    cut.weight = torch.nn.Parameter(head.weight.data[:count], requires_grad=False)
    return cut
