"""Finalization rules: which masked positions of the active blocks become tokens in a step."""

from typing import Protocol

import torch
from torch import Tensor

from cdlm.model.decoding.finalize import choose
from cdlm.model.decoding.rules import RULES, FinalizationRule


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


class TopConfidence:
    """The ``count`` most confident positions; equal confidences go from left to right."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be positive, got {count}")
        self.count = count

    def __call__(self, confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:  # noqa: ARG002
        return masked & (confidence_rank(confidence, masked) < self.count)


class _EngineRule:
    """A rule of the serving engine (``model/decoding/finalize.py``), with at least one position per row."""

    def __init__(self, rule: FinalizationRule) -> None:
        self.rule = rule

    def __call__(self, confidence: Tensor, entropy: Tensor, masked: Tensor) -> Tensor:
        rows, device = len(masked), masked.device
        name = torch.full((rows,), RULES.index(self.rule.name), device=device)
        limit = torch.full((rows,), self.rule.limit, device=device)
        return choose(confidence, masked, name, limit, torch.ones_like(name), entropy)


class Threshold(_EngineRule):
    """Confidence above ``tau``, in (0, 1] (Fast-dLLM, arXiv 2505.22618)."""

    def __init__(self, tau: float) -> None:
        if not 0 < tau <= 1:
            raise ValueError(f"tau must lie in (0, 1], got {tau}")
        super().__init__(FinalizationRule("threshold", tau))


class EntropyBound(_EngineRule):
    """The n of lowest entropy, as long as all but the largest sum to ``gamma`` nats (EB-Sampler, arXiv 2505.24857)."""

    def __init__(self, gamma: float) -> None:
        if not gamma >= 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        super().__init__(FinalizationRule("entropy_bound", gamma))


def confidence_rank(confidence: Tensor, among: Tensor) -> Tensor:
    """Rank by falling confidence of the positions in ``among``, from 0, ties from left to right.

    confidence [rows, block] fp32, among [rows, block] bool -> [rows, block] int64; other positions come after all.
    """
    order = confidence.masked_fill(~among, -1.0).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)
