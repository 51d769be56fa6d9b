"""Reasoning effort: sets the confidence threshold (docs/diffusion.md)."""

from typing import Literal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Allowed doubt (1 - confidence), in multiples of the checkpoint's.
_DOUBT: dict[Effort, float] = {
    "none": 16.0,
    "minimal": 8.0,
    "low": 4.0,
    "medium": 1.0,
    "high": 0.0,
    "xhigh": 0.0,
    "max": 0.0,
}

# Lowest threshold: a token must be more likely than all others together.
_LEAST = 0.5


def effort_threshold(effort: Effort, own: float) -> float:
    """The threshold in (0, 1] for ``effort``; ``own`` is the checkpoint's threshold."""
    doubt = _DOUBT[effort]
    return own if doubt == 1.0 else max(min(own, _LEAST), 1.0 - doubt * (1.0 - own))
