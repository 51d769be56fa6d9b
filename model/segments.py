"""Segments: the unit of a forward pass.

A forward takes a flat list of tokens cut into segments. A segment belongs to one request, starts at one
position, and its queries see every key of their own request below ``visible``; inside it nothing is masked
(unless it is ``causal``). Prefill, denoise, commit and resume are lists of segments, nothing else.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one request.

    Attributes:
        start: position of the first token.
        length: number of tokens.
        pages: the request's page table, long enough for ``visible`` positions.
        causal: a query sees positions up to its own instead of all below ``start + length``.
    """

    start: int
    length: int
    pages: list[int]
    causal: bool = False

    @property
    def visible(self) -> int:
        """Keys of the request below this position are seen."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments of similar size, padded to one rectangle for SDPA.

    Attributes:
        query_index: [segments, queries] int64, the flat token each query is; padding repeats a token.
        key_slots: [segments, keys] int64, where in the pool each key lies; padding repeats a slot.
        mask: [segments, 1, 1 or queries, keys] bool, true = sees; ``None`` when nothing is padded or causal.
        real: [segments * queries] int64, which queries of the flattened rectangle are no padding.
        flat: same length, the flat token of each.
    """

    query_index: Tensor
    key_slots: Tensor
    mask: Tensor | None
    real: Tensor
    flat: Tensor


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """Everything one forward needs to know about its T tokens.

    Attributes:
        positions: [T] int64.
        slots: [T] int64, where in the pool each token's key and value are written.
        groups: the rectangles attention runs over; together they cover every token once.
    """

    positions: Tensor
    slots: Tensor
    groups: list[SegmentGroup]


def build_batch(segments: list[Segment], page_size: int, device: torch.device) -> SegmentBatch:
    """Lays out segments, in order, as one flat forward."""
    tables = [_slots(segment, page_size) for segment in segments]
    positions = [torch.arange(segment.start, segment.visible) for segment in segments]
    slots = [table[segment.start :] for segment, table in zip(segments, tables, strict=True)]
    offsets: list[int] = []
    total = 0
    for segment in segments:
        offsets.append(total)
        total += segment.length
    groups: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    for index, segment in enumerate(segments):
        groups[_size_class(segment.length), _size_class(segment.visible), segment.causal].append(index)
    return SegmentBatch(
        torch.cat(positions).to(device),
        torch.cat(slots).to(device),
        [
            _group([segments[i] for i in members], [offsets[i] for i in members], [tables[i] for i in members], device)
            for members in groups.values()
        ],
    )


def _size_class(size: int) -> int:
    """Powers of two: padding never more than doubles a side."""
    return (size - 1).bit_length()


def _slots(segment: Segment, page_size: int) -> Tensor:
    """[visible] int64: the pool slot of every position the segment sees."""
    pages = torch.tensor(segment.pages[: -(-segment.visible // page_size)])
    return (pages[:, None] * page_size + torch.arange(page_size)).flatten()[: segment.visible]


def _group(segments: list[Segment], offsets: list[int], tables: list[Tensor], device: torch.device) -> SegmentGroup:
    lengths = torch.tensor([segment.length for segment in segments])[:, None]
    visible = torch.tensor([segment.visible for segment in segments])[:, None]
    query = torch.arange(int(lengths.max()))[None]  # [1, queries]
    key = torch.arange(int(visible.max()))[None]  # [1, keys]
    query_index = torch.tensor(offsets)[:, None] + torch.minimum(query, lengths - 1)
    key_slots = torch.stack([torch.nn.functional.pad(table, (0, key.shape[1] - len(table))) for table in tables])
    sees = (key < visible)[:, None, None, :]  # [segments, 1, 1, keys]
    if segments[0].causal:
        starts = torch.tensor([segment.start for segment in segments])[:, None]
        sees = sees & (key[:, None, :] <= (starts + query)[:, :, None])[:, None]
    real = (query < lengths).flatten().nonzero()[:, 0]
    return SegmentGroup(
        query_index.to(device),
        key_slots.to(device),
        None if bool(sees.all()) else sees.to(device),
        real.to(device),
        query_index.flatten()[real].to(device),
    )
