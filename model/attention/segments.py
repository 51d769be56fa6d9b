"""Segments: the unit of a forward pass.

A forward takes a flat list of tokens that is split into segments. A segment is a run of consecutive positions of one
request. Its queries see every key of that request below position ``visible``, later keys of the segment included,
unless it is ``causal``. Prefill, denoise, commit and resume are all lists of segments.

The exception is a segment of ``branches``: groups of masked rows, each of which continues the request from a position
of its own. Their keys lie side by side behind those of the request's known tokens, where later tokens overwrite them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdlm.model.row import Span

Indices = NDArray[np.int64]

PART = 1024  # Keys that a program of a kernel reads at most, where the keys of a segment are shared out.


class Branch(NamedTuple):
    """``length`` rows at positions ``start``, ``start`` + 1, ... Each sees the keys below ``start``, the branch's rows
    before it, and itself: a longer branch is a shorter one with more rows behind it. In a ``mutual`` segment each sees
    the whole branch.
    """

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one request, or branches that continue it.

    Attributes:
        start: position of the first token; of branches, the position whose slot their first key takes.
        length: number of tokens.
        pages: the request's page table, long enough for ``visible`` positions.
        causal: a query sees positions up to its own, not all below ``visible``.
        ahead: how many keys after the last token are visible too: the rest of a segment that was split.
        branches: (start, length) of each branch; all begin at or below ``start``. Their lengths add up to ``length``.
        mutual: whether all rows of a branch see each other.
    """

    start: int
    length: int
    pages: list[int]
    causal: bool = False
    ahead: int = 0
    branches: tuple[Branch, ...] = ()
    mutual: bool = False

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + self.length

    @property
    def visible(self) -> int:
        """The segment sees the request's keys below this position."""
        return self.end + self.ahead

    def slots(self, page_size: int) -> Indices:
        """[visible]: the pool slot of every position the segment sees."""
        pages = np.array(self.pages[: -(-self.visible // page_size)])
        slots: Indices = (pages[:, None] * page_size + np.arange(page_size)).ravel()[: self.visible]
        return slots

    @property
    def positions(self) -> Indices:
        """[length]: the position of every token."""
        if not self.branches:
            return np.arange(self.start, self.end)
        return np.concatenate([np.arange(branch.start, branch.start + branch.length) for branch in self.branches])

    def sees(self) -> Indices:
        """[length, 3]: every query sees the request's keys below the first number, and those of the slots of positions
        from the second to the third (exclusive).
        """
        if not self.branches:
            below = np.arange(self.start, self.end) + 1 if self.causal else np.full(self.length, self.visible)
            return np.stack((below, np.zeros_like(below), np.zeros_like(below)), axis=1)
        lengths = np.array([branch.length for branch in self.branches])
        ends = self.start + np.cumsum(lengths)
        starts = np.array([branch.start for branch in self.branches])
        first, below = np.repeat(ends - lengths, lengths), np.repeat(starts, lengths)
        last = np.repeat(ends, lengths) if self.mutual else np.arange(self.start, self.end) + 1
        return np.stack((below, first, last), axis=1)


def clean_segments(spans: Sequence[Span], pages: list[int]) -> list[Segment]:
    """One segment per span of known tokens of the request whose page table is ``pages``."""
    return [Segment(span.start, len(span.token_ids), pages, span.causal) for span in spans]


def cut(segments: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """Segments of the flat tokens ``first`` to ``last`` (exclusive); each sees the same keys as before the split."""
    parts: list[Segment] = []
    begin = 0
    for segment in segments:
        end = begin + segment.length
        head, tail = max(first, begin), min(last, end)
        if head < tail:
            ahead = 0 if segment.causal else end - tail + segment.ahead
            parts.append(replace(segment, start=segment.start + head - begin, length=tail - head, ahead=ahead))
        begin = end
    return parts
