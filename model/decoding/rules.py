"""The finalization rules and their numbers. Imports no torch: the API process reads them too."""

from typing import Literal, NamedTuple

RuleName = Literal["threshold", "factor", "entropy_bound", "fixed_steps", "guide"]
RULES: tuple[RuleName, ...] = ("threshold", "factor", "entropy_bound", "fixed_steps", "guide")

# The field of requests and settings that holds each rule's number; the rule guide has none.
RULE_NUMBERS: dict[RuleName, str] = {
    "threshold": "confidence_threshold",
    "factor": "decoding_factor",
    "entropy_bound": "entropy_bound",
    "fixed_steps": "steps_per_block",
}

# The default of Fast-dLLM's factor decoding (Wu et al., 2025, arXiv 2505.22618; NVlabs/Fast-dLLM).
DEFAULT_FACTOR = 1.0
# In nats. The default of diffusers' EntropyBoundScheduler, after EB-Sampler (Ben-Hamu et al., 2025, arXiv 2505.24857).
DEFAULT_ENTROPY_BOUND = 0.1

# The logit bias that bans a token.
BAN = -100.0


class FinalizationRule(NamedTuple):
    """A rule and its one number: a confidence in (0, 1], a factor > 0, an entropy in nats >= 0, or steps >= 1; 0 for
    the rule guide, which has none.
    """

    name: RuleName
    limit: float
