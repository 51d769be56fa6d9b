"""The LM head: hidden states to logits, whole or one part of the vocabulary after the other."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn


class Head(Protocol):
    """What ``model/decoding/confidence.py`` searches for the most probable tokens."""

    out_features: int

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden_size] -> logits [rows, vocab] in the weights' dtype."""
        ...

    def part_columns(self, rows: int, part_bytes: int) -> int:
        """Columns of a part, such that fp32 logits of so many rows take about that many bytes."""
        ...

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
        """The first token of each part, and its logits, [rows, at most ``columns``]."""
        ...


class LmHead(nn.Linear):
    """The LM head as checkpoints store it."""

    def part_columns(self, rows: int, part_bytes: int) -> int:
        """See ``Head``: whole thousands, since products of odd widths are slower."""
        return max(1024, part_bytes // (4 * max(1, rows)) // 1024 * 1024)

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
        """See ``Head``."""
        for start in range(0, self.out_features, columns):
            yield start, nn.functional.linear(hidden, self.weight[start : start + columns])
