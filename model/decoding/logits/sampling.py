"""Sampling with reproducible noise (``model/decoding/logits/noise.py``).

Tokens are drawn with the Gumbel-max trick: ``argmax(logits / temperature + noise)`` is a draw from the tempered
softmax. Which positions are finalized depends on the model's confidence and not on the noise, so a finalized token is
an unbiased draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.uploads import Place

_COLDEST, _HOTTEST = 1e-20, 1e20
_ALL = 2**22  # More tokens than any vocabulary has.


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tokens may be drawn, for R rows of logits; tensors are on their device.

    Attributes:
        top_k: [R] int64, at least 1: how many of the best may be drawn; more than there are if all.
        top_p: [R] fp32, the nucleus; 1 if all.
        log_min_p: [R] fp32, logarithm of the least probability relative to the best; -inf if all.
        largest_k: the largest ``top_k`` of the rows that set one; 0 if none does.
        nucleus: whether a row has a ``top_p`` below 1.
        floor: whether a row has a ``log_min_p`` above -inf.
    """

    top_k: Tensor
    top_p: Tensor
    log_min_p: Tensor
    largest_k: int
    nucleus: bool
    floor: bool

    @classmethod
    def of(cls, rows: Sequence[DecodingParams | None], place: Place) -> "Filters | None":
        """The filters of rows, where ``None`` has none; ``None`` if nothing is left out anywhere."""
        best = [0 if row is None or row.top_k > _ALL else max(0, row.top_k) for row in rows]
        nuclei = [1.0 if row is None else row.top_p for row in rows]
        floors = [0.0 if row is None else row.min_p for row in rows]
        if not any(best) and min(nuclei) >= 1.0 and not any(floors):
            return None
        with np.errstate(divide="ignore"):
            log_floors = np.log(np.array(floors, dtype=np.float32))
        return cls(
            place(np.array([count or _ALL for count in best])),
            place(np.array(nuclei, dtype=np.float32)),
            place(log_floors),
            max(best),
            min(nuclei) < 1.0,
            any(floors),
        )

    def of_rows(self, rows: Tensor) -> "Filters":
        """The filters of ``rows`` [positions] int64, one per position."""
        return replace(self, top_k=self.top_k[rows], top_p=self.top_p[rows], log_min_p=self.log_min_p[rows])

    def apply(self, logits: Tensor) -> Tensor:
        """Returns logits [R, vocab], already divided by the temperature, with -inf at the tokens left out.

        First all but the ``top_k`` best, then those outside the nucleus, then those below the least probability.
        """
        kept = logits
        if self.largest_k:
            best = kept.topk(min(self.largest_k, logits.shape[-1]), dim=-1).values
            least = best.gather(1, self.top_k.clamp(max=best.shape[-1])[:, None] - 1)
            every = (self.top_k >= logits.shape[-1])[:, None]
            kept = kept.masked_fill((kept < least) & ~every, float("-inf"))
        if self.nucleus:
            ordered, order = kept.sort(dim=-1, descending=True)
            probability = ordered.softmax(dim=-1)
            # A token stays if the probability before it is still below top_p; the best one always stays.
            nuclei = self.top_p[:, None]
            outside = (probability.cumsum(dim=-1) - probability >= nuclei) & (nuclei < 1)
            outside[:, 0] = False
            kept = kept.masked_fill(torch.empty_like(outside).scatter_(1, order, outside), float("-inf"))
        if self.floor:
            log_probability = kept.log_softmax(dim=-1)
            least = log_probability.amax(dim=-1, keepdim=True) + self.log_min_p[:, None]
            kept = kept.masked_fill(log_probability < least, float("-inf"))
        return kept


def sample(logits: Tensor, noise: Tensor, *, temperature: float, filters: Filters | None = None) -> Tensor:
    """Draws a token per row: logits, noise [rows, vocab] -> [rows] int64. ``temperature`` is positive."""
    scaled = logits.float() / bounded(temperature)
    return ((scaled if filters is None else filters.apply(scaled)) + noise).argmax(dim=-1)


def bounded(temperature: float) -> float:
    """The temperature to divide by. Nearer to 0 or to infinity the quotients would not be finite, and the draw no
    longer depends on it.
    """
    return min(max(temperature, _COLDEST), _HOTTEST)
