"""Sampling with reproducible noise (``model/decoding/noise.py``).

Tokens are drawn with the Gumbel-max trick: ``argmax(logits / temperature + noise)`` is a draw from the tempered
softmax. Which positions are finalized depends on the model's confidence and not on the noise, so a finalized token is
an unbiased draw.
"""

import torch
from torch import Tensor

COLDEST, HOTTEST = 1e-20, 1e20


def filter_logits(logits: Tensor, *, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Returns a copy of logits [rows, vocab], already divided by the temperature, with -inf at removed tokens.

    Removes all but the ``top_k`` best, tokens outside the ``top_p`` nucleus, and tokens below ``min_p`` times the best
    probability.
    """
    kept = logits
    if 0 < top_k < logits.shape[-1]:
        kept = kept.masked_fill(kept < kept.topk(top_k, dim=-1).values[:, -1:], float("-inf"))
    if top_p < 1.0:
        ordered, order = kept.sort(dim=-1, descending=True)
        probability = ordered.softmax(dim=-1)
        # A token stays if the probability before it is still below top_p; the best one always stays.
        outside = probability.cumsum(dim=-1) - probability >= top_p
        outside[:, 0] = False
        kept = kept.masked_fill(torch.empty_like(outside).scatter_(1, order, outside), float("-inf"))
    if min_p > 0.0:
        log_probability = kept.log_softmax(dim=-1)
        best = log_probability.amax(dim=-1, keepdim=True)
        floor = best + torch.log(torch.tensor(min_p, device=logits.device))
        kept = kept.masked_fill(log_probability < floor, float("-inf"))
    return kept


def sample(logits: Tensor, noise: Tensor, *, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Draws a token a row: logits, noise [rows, vocab] -> [rows] int64. ``temperature`` is positive."""
    # Nearer to 0 or to infinity the quotients would not be finite; there the draw no longer depends on it.
    temperature = min(max(temperature, COLDEST), HOTTEST)
    tempered = filter_logits(logits.float() / temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return (tempered + noise).argmax(dim=-1)
