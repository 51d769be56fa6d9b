"""Segments: the unit of a forward pass.

A forward takes a flat list of tokens cut into segments. A segment belongs to one request, starts at one
position, and its queries see every key of their own request below ``visible``; inside it nothing is masked
(unless it is ``causal``). Prefill, denoise, commit and resume are lists of segments, nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cdlm.model.row import Span

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one request.

    Attributes:
        start: position of the first token.
        length: number of tokens.
        pages: the request's page table, long enough for ``visible`` positions.
        causal: a query sees positions up to its own instead of all below ``visible``.
        ahead: keys behind the last token that are seen as well: the rest of a segment that was cut.
    """

    start: int
    length: int
    pages: list[int]
    causal: bool = False
    ahead: int = 0

    @property
    def end(self) -> int:
        """The position behind the last token."""
        return self.start + self.length

    @property
    def visible(self) -> int:
        """Keys of the request below this position are seen."""
        return self.end + self.ahead

    def slots(self, page_size: int) -> Indices:
        """[visible]: the pool slot of every position the segment sees."""
        pages = np.array(self.pages[: -(-self.visible // page_size)])
        slots: Indices = (pages[:, None] * page_size + np.arange(page_size)).ravel()[: self.visible]
        return slots


def clean_segments(spans: Sequence[Span], pages: list[int]) -> list[Segment]:
    """A segment for each span of known tokens of a request with these pages."""
    return [Segment(span.start, len(span.token_ids), pages, span.causal) for span in spans]


def cut(segments: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """The segments of the flat tokens ``first`` up to ``last`` alone; they see the keys that are cut off as before."""
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
