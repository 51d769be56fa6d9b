"""Attention of single queries: the result of each is that of the query alone, whatever else a step computes."""

from collections import defaultdict
from collections.abc import Sequence
from math import lcm

import numpy as np
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cdlm.model.attention.segments import Indices, Segment
from cdlm.model.uploads import Place

# Keys are padded to whole pages, and to a multiple of this, so that the order of a query's sums depends on its position
# alone.
_KEYS = 16


class SingleQueries:
    """Queries of one request, as a batch of products with one query each.

    Products with several queries, or with other padding, add in another order.

    Args:
        queries: [n] which flat tokens they are.
        slots: [keys] where in the pool the keys lie, padded.
        sees: [n, 3], see ``Segment.sees``.
        heads: query heads per key head.
        place: brings arrays to the device.
    """

    def __init__(self, queries: Indices, slots: Indices, sees: Indices, heads: int, place: Place) -> None:
        self._heads = heads
        self._queries = as_slice(queries) or place(queries)
        self._slots = as_slice(slots) or place(slots)
        below, first, end = np.moveaxis(sees, 1, 0)[..., None]  # Each [n, 1].
        key = np.arange(len(slots))
        seen = (key < below) | ((key >= first) & (key < end))
        self._mask = place(np.repeat(seen, heads, axis=0)[None, :, None])

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
        """Writes the attended values to the queries' places in ``out``; arguments are those of ``PagedAttention``."""
        rows = _select(query, self._queries)
        count, heads, width = rows.shape
        mine = rows.view(count, -1, self._heads, width).transpose(0, 1).reshape(-1, count * self._heads, 1, width)
        seen_keys, seen_values = (
            _select(each, self._slots).transpose(0, 1)[:, None].expand(-1, count * self._heads, -1, -1)
            for each in (keys, values)
        )
        attended = scaled_dot_product_attention(mine, seen_keys, seen_values, attn_mask=self._mask)
        out[self._queries] = attended.view(-1, count, self._heads, width).transpose(0, 1).reshape(count, heads, width)


def single_queries(
    segments: Sequence[tuple[Segment, int]], page_size: int, heads: int, place: Place
) -> list[SingleQueries]:
    """Groups the queries of segments, each with its first flat token, by the keys that they see after padding."""
    found: dict[tuple[int, int], list[tuple[Indices, Indices]]] = defaultdict(list)
    tables: dict[int, list[int]] = {}
    step = lcm(page_size, _KEYS)
    for segment, first in segments:
        queries, sees = np.arange(first, first + segment.length), segment.sees()
        last = np.full(segment.length, segment.visible) if segment.branches else sees[:, 0]
        padded = -(-last // step) * step
        tables[id(segment.pages)] = segment.pages
        for keys in np.unique(padded).tolist():
            found[id(segment.pages), keys].append((queries[padded == keys], sees[padded == keys]))
    groups = []
    for (table, keys), parts in found.items():
        queries, sees = (np.concatenate(each) for each in zip(*parts, strict=True))
        pages = np.array(tables[table][: -(-keys // page_size)])
        slots = (pages[:, None] * page_size + np.arange(page_size)).ravel()[:keys]
        # Beyond the request's pages: a key of its own, since one of another request may not be finite.
        slots = np.pad(slots, (0, keys - len(slots)), constant_values=slots[0])
        groups.append(SingleQueries(queries, slots, sees, heads, place))
    return groups


def as_slice(indices: Indices) -> slice | None:
    """The slice that selects ``indices``, if they are consecutive."""
    first = int(indices[0])
    consecutive = indices[-1] - first == len(indices) - 1 and bool((np.diff(indices) == 1).all())
    return slice(first, first + len(indices)) if consecutive else None


def _select(of: Tensor, index: slice | Tensor) -> Tensor:
    return of[index] if isinstance(index, slice) else of.index_select(0, index)
