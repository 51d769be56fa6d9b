"""What the ratios should reach."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit for the median of a ratio, at most or at least; ``shape`` and ``batch`` say where it holds."""

    limit: float
    at_most: bool
    shape: str | None = None
    batch: int | None = None

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}"

    def met(self, median: float) -> bool:
        """Whether a median keeps it."""
        return median <= self.limit if self.at_most else median >= self.limit


BARS: dict[str, tuple[Bar, ...]] = {
    "offline_over_raw": (
        Bar(1.10, at_most=True, shape="dream-0.1b", batch=16),
        Bar(1.25, at_most=True, shape="nano", batch=1),
    ),
    "http_over_offline": (Bar(0.95, at_most=False),),
    "forward_cost_vs_dual_cache": (Bar(2.0, at_most=False),),
    "forward_cost_vs_naive": (Bar(8.0, at_most=False),),
    "tokens_per_s_vs_dual_cache": (Bar(5.0, at_most=False, batch=1),),
    "tokens_per_s_vs_vllm": (Bar(3.0, at_most=False, batch=1),),
    "time_per_block_64_vs_2_without_attention": (Bar(1.3, at_most=True),),
    "inter_block_gap_p99": (Bar(2.0, at_most=True),),
    "inter_block_gap_p99_http": (Bar(2.0, at_most=True),),
}


def bar_of(ratio: str, entry: Mapping[str, Any]) -> Bar | None:
    """The bar of a ratio at the shape and batch of its comparison, if there is one."""
    for bar in BARS.get(ratio, ()):
        if bar.shape in (None, entry["shape"]) and bar.batch in (None, entry["batch"]):
            return bar
    return None
