"""The LM head: hidden states to logits, of the whole vocabulary or part by part."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn


class Head(Protocol):
    """An LM head, as ``model/decoding/confidence.py`` uses it."""

    out_features: int

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden [rows, hidden_size] -> logits [rows, vocab] in the weights' dtype."""
        ...

    def part_columns(self, rows: int, part_bytes: int) -> int:
        """Columns per part, so that the fp32 logits of ``rows`` rows take about ``part_bytes`` bytes."""
        ...

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
        """Yields each part's first token id and logits [rows, at most ``columns``]; hidden is [rows, hidden_size]."""
        ...


class LmHead(nn.Linear):
    """The LM head as checkpoints store it."""

    def part_columns(self, rows: int, part_bytes: int) -> int:
        """See ``Head``; a round number, since products of odd widths are slower."""
        return max(1024, part_bytes // (4 * max(1, rows)) // 1024 * 1024)

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
        """See ``Head``."""
        for start in range(0, self.out_features, columns):
            yield start, nn.functional.linear(hidden, self.weight[start : start + columns])
