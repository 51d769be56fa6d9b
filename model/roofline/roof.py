"""The roofline: the least time a device needs for a computation of known FLOPs and bytes.

The model of Williams, Waterman and Patterson (2009, Communications of the ACM 52(4)): a computation takes at least the
larger of its arithmetic at the peak rate and its memory traffic at the peak bandwidth.
"""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs (a multiply-add is two), and bytes moved between memory and cores.

    ``tokens`` run through the layers; where these have experts, the tokens decide how many of them are read.
    """

    flops: float
    bytes: float
    tokens: float = field(default=0.0, compare=False)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.tokens + other.tokens)

    def times(self, count: float) -> "Work":
        """This work ``count`` times."""
        return Work(self.flops * count, self.bytes * count, self.tokens * count)

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True, slots=True)
class Roof:
    """A device's peak rates: FLOP/s and bytes/s."""

    flops_per_s: float
    bytes_per_s: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte above which arithmetic takes longer than memory traffic."""
        return self.flops_per_s / self.bytes_per_s

    def compute_s(self, work: Work) -> float:
        """Least seconds for the arithmetic of ``work``."""
        return work.flops / self.flops_per_s

    def memory_s(self, work: Work) -> float:
        """Least seconds for the memory traffic of ``work``."""
        return work.bytes / self.bytes_per_s

    def seconds(self, work: Work) -> float:
        """Least seconds for ``work``, if arithmetic and memory traffic overlap perfectly."""
        return max(self.compute_s(work), self.memory_s(work))


def ridge_batch(row: Work, weights: Work, roof: Roof) -> float | None:
    """The batch N at which arithmetic takes as long as memory traffic: N c = w + N m, in seconds.

    ``None`` if a row's traffic m takes longer than its arithmetic c: no batch is compute-bound.
    """
    gained = roof.compute_s(row) - roof.memory_s(row)
    return roof.memory_s(weights) / gained if gained > 0 else None


def crossover_batch(student: Work, other: Work, weights: Work, tokens_per_forward: float, roof: Roof) -> int | None:
    """The smallest batch at which a model with one token per forward reaches the student's tokens/s, if any.

    The student finalizes k = ``tokens_per_forward`` in its time t, the other model one token in t': N k / t = N / t'.
    The student's lead shrinks as the batch grows, since its rows have more arithmetic and both models read the weights
    once: a binary search finds the crossover.
    """

    def behind(batch: int) -> bool:
        time = roof.seconds(weights + student.times(batch))
        return time >= tokens_per_forward * roof.seconds(weights + other.times(batch))

    high = 1
    while not behind(high):
        high *= 2
        if high > 2**24:  # Per-row costs dominate: the ratio no longer changes.
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if behind(middle) else (middle, high)
    return high


def whole_batch(batch: float | None) -> int | None:
    """Rounds a batch up to a whole number."""
    return None if batch is None else max(1, math.ceil(batch))
