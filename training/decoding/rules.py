"""Finalization rules: which masked positions of the active blocks become tokens in a step."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cdlm.model.decoding.finalize import choose
from cdlm.model.decoding.rules import RULES, RuleName


class Rule(Protocol):
    """Chooses positions to finalize."""

    def __call__(self, confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:
        """Chooses at least one position in every row that has a masked one.

        Args:
            confidence: [rows, block] fp32, probability of the token that would be placed, under the untempered
                distribution without the mask token; meaningless where not masked.
            entropy: [rows, block] fp32, entropy of that distribution in nats; meaningless where not masked.
            masked: [rows, block] bool.

        Returns:
            [rows, block] bool, a subset of ``masked``.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineRule:
    """A rule of the serving engine (``model/decoding/finalize.py``), with its limit.

    ``threshold`` is Fast-dLLM's (arXiv 2505.22618), ``entropy_bound`` EB-Sampler's (arXiv 2505.24857); ``fixed_steps``
    takes exactly ``at_least``, the others ``at_least`` or more.
    """

    name: RuleName
    limit: float = 0.0
    at_least: int = 1

    def __call__(self, confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:
        rows, device = (len(masked),), masked.device
        name = torch.full(rows, RULES.index(self.name), device=device)
        limit = torch.full(rows, self.limit, device=device)
        at_least = torch.full(rows, self.at_least, device=device)
        return choose(confidence, masked, name, limit, at_least, entropy if self.name == "entropy_bound" else None)


def confidence_rank(confidence: Tensor, among: Tensor) -> Tensor:
    """Rank by falling confidence of the positions in ``among``, from 0, ties from left to right.

    confidence [rows, block] fp32, among [rows, block] bool -> [rows, block] int64; other positions come after all.
    """
    order = confidence.masked_fill(~among, -1.0).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
