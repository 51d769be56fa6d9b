"""The LM head: hidden states to logits, of the whole vocabulary or part by part; and what is searched in them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn


class Peaks(NamedTuple):
    """The most probable token of each row of logits, [rows] each.

    Attributes:
        confidence: its softmax probability, fp32; NaN if a logit is NaN or +inf, or all are -inf.
        token: its id, int64; the lowest of those with equal logits. Any id where the confidence is NaN.
        top: the largest logit, fp32; NaN or +inf if a logit is.
    """

    confidence: Tensor
    token: Tensor
    top: Tensor


class LmHead(nn.Linear):
    """The LM head as checkpoints store it."""

    def part_columns(self, rows: int, part_bytes: int) -> int:
        """Columns per part, so that the fp32 logits of ``rows`` rows take about ``part_bytes`` bytes.

        A round number, since products of odd widths are slower.
        """
        return max(1024, part_bytes // (4 * max(1, rows)) // 1024 * 1024)

    def parts(self, hidden: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
        """Yields each part's first token id and logits [rows, at most ``columns``]; hidden is [rows, hidden_size]."""
        for start in range(0, self.out_features, columns):
            yield start, nn.functional.linear(hidden, self.weight[start : start + columns])


# Finds the peaks in the logits of hidden [rows, hidden_size], without the token of this id; an id past the head's
# tokens means that there is none to leave out.
Search = Callable[[Tensor, LmHead, int], Peaks]
