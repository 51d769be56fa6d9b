"""The reference of all attention implementations: plain attention over each segment's own keys."""

import random

import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.segments import Branch, Segment, cut
from cdlm.model.config import TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=8, hidden_size=32, intermediate_size=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
)
PAGE, PAGES = 16, 40


def plain(query: Tensor, keys: Tensor, values: Tensor, sees: Tensor) -> Tensor:
    """Softmax attention, one head at a time."""
    heads = []
    for head in range(query.shape[1]):
        group = head // (query.shape[1] // keys.shape[1])
        scores = query[:, head] @ keys[:, group].T / query.shape[-1] ** 0.5
        heads.append(scores.masked_fill(~sees, float("-inf")).softmax(-1) @ values[:, group])
    return torch.stack(heads, dim=1)


def draw_segments(rng: random.Random, *, branched: bool = False) -> list[Segment]:
    """Requests with unordered pages, at various stages; two share the pages of a prompt."""
    pages = list(range(PAGES))
    rng.shuffle(pages)
    segments: list[Segment] = []
    shared = [pages.pop(), pages.pop()]
    for start, length, causal in rng.sample(
        [(0, 37, False), (0, 21, True), (32, 8, False), (40, 8, False), (5, 1, False), (17, 9, True)], k=5
    ):
        table = [pages.pop() for _ in range(-(-(start + length + 9) // PAGE))]
        segments.append(Segment(start, length, table, causal))
        if branched and rng.random() < 0.7:  # Rows behind some of the request's tokens.
            branches = [Branch(rng.randint(max(1, start), start + length), rng.randint(1, 3)) for _ in range(3)]
            size, mutual = sum(size for _, size in branches), rng.random() < 0.5
            segments.append(Segment(start + length, size, table, branches=tuple(branches), mutual=mutual))
        elif rng.random() < 0.5:  # The next block of the same request.
            segments.append(Segment(start + length, 8, table))
    for _ in range(2):
        segments.append(Segment(32, 8, [*shared, pages.pop()]))
    return segments


def branches_see(segment: Segment) -> tuple[list[int], Tensor]:
    """The positions of a segment's branches, and which keys each query sees, [queries, keys], pair by pair."""
    rows = [(branch, place) for branch in segment.branches for place in range(branch.length)]
    sees = torch.zeros(len(rows), segment.visible, dtype=torch.bool)
    for query, (branch, _) in enumerate(rows):
        sees[query, : branch.start] = True
        for key, (other, _) in enumerate(rows if segment.mutual else rows[: query + 1]):
            sees[query, segment.start + key] |= other is branch
    return [branch.start + place for branch, place in rows], sees


@torch.inference_mode()
def check_segments(
    attention: type[PagedAttention], *, branched: bool = False, dtype: torch.dtype = torch.float32
) -> None:
    """Asserts that each segment sees its own request up to its end; with ``branched``, that branches see theirs."""
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for seed in range(4):
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        cache = PagedCache(CONFIG, num_pages=PAGES, page_size=PAGE, device=torch.device("cpu"), dtype=dtype)
        for stored in (cache.keys, cache.values):
            stored.normal_(generator=generator)
        segments = draw_segments(rng, branched=branched)
        total = sum(segment.length for segment in segments)
        query = torch.randn(total, 4, 16, generator=generator).to(dtype)
        key, value = torch.randn(2, total, 2, 16, generator=generator).to(dtype)
        planned = attention(cache, segments)
        for layer in range(2):
            out = planned(layer, query, key, value)
            first = 0
            for segment in segments:
                slots = torch.from_numpy(segment.slots(PAGE))
                mine = slice(first, first + segment.length)
                assert cache.keys[layer, slots[segment.start :]].equal(key[mine])
                positions = torch.arange(segment.visible)
                last = torch.full((segment.length,), segment.visible - 1)
                sees = positions <= (positions[segment.start :] if segment.causal else last)[:, None]
                own = list(range(segment.start, segment.visible))
                if segment.branches:
                    own, sees = branches_see(segment)
                keys, values = cache.keys[layer, slots].float(), cache.values[layer, slots].float()
                expected = plain(query[mine].float(), keys, values, sees)
                torch.testing.assert_close(out[mine].float(), expected, atol=tolerance, rtol=tolerance)
                assert planned.positions[mine].tolist() == own
                first = mine.stop


@torch.inference_mode()
def check_cuts(attention: type[PagedAttention]) -> None:
    """Asserts that a split segment sees the same keys as the whole one."""
    generator = torch.Generator().manual_seed(0)
    cache = PagedCache(CONFIG, num_pages=PAGES, page_size=PAGE, device=torch.device("cpu"), dtype=torch.float32)
    segments = [Segment(0, 37, [5, 1, 9]), Segment(37, 8, [5, 1, 9], causal=True), Segment(45, 8, [5, 1, 9, 3])]
    query = torch.randn(53, 4, 16, generator=generator)
    key, value = torch.randn(2, 53, 2, 16, generator=generator)
    whole = attention(cache, segments)
    expected = whole(0, query, key, value)
    whole.write(1, key, value)
    for first, last in [(0, 20), (20, 40), (40, 46), (46, 53), (3, 52)]:
        part = attention(cache, cut(segments, first, last))
        assert part.positions.equal(whole.positions[first:last])
        found = part(1, query[first:last], key[first:last], value[first:last])
        torch.testing.assert_close(found, expected[first:last], atol=1e-5, rtol=1e-5)
    # A segment that is cut already can be cut again.
    assert cut(cut(segments, 3, 30), 2, 9) == cut(segments, 5, 12)
