"""Reasoning effort, which here is how sure a token must be before it is written (docs/diffusion.md)."""

from typing import Literal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# How much doubt a token may have, in multiples of what the checkpoint's own threshold allows.
_DOUBT: dict[Effort, float] = {
    "none": 16.0,
    "minimal": 8.0,
    "low": 4.0,
    "medium": 1.0,
    "high": 0.0,
    "xhigh": 0.0,
    "max": 0.0,
}

# However fast, a token that is less likely than all others together is left for a later step.
_LEAST = 0.5


def effort_threshold(effort: Effort, own: float) -> float:
    """The confidence in (0, 1] that ``effort`` asks for where the checkpoint's own threshold is ``own``."""
    doubt = _DOUBT[effort]
    return own if doubt == 1.0 else max(min(own, _LEAST), 1.0 - doubt * (1.0 - own))
