"""Attention over segments of all kinds together, against float64."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.segments import Segment
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.config import TransformerConfig


class Kind(NamedTuple):
    """A segment: what was computed before it, its tokens, and who of them sees whom."""

    start: int
    length: int
    causal: bool = False
    ahead: int = 0


def kinds_of(
    start: st.SearchStrategy[int], length: st.SearchStrategy[int], causal: bool = False, ahead: int = 0
) -> st.SearchStrategy[Kind]:
    """Segments of one kind, some of which see keys behind their own if ``ahead`` is not 0."""
    return st.builds(Kind, start=start, length=length, causal=st.just(causal), ahead=st.integers(min(1, ahead), ahead))


KINDS = st.one_of(
    kinds_of(st.just(0), st.integers(1, 40)),  # A prompt.
    kinds_of(st.integers(0, 40), st.integers(1, 40), causal=True),
    kinds_of(st.sampled_from((0, 1, 31, 64, 200)), st.just(32)),  # A block that is denoised, or committed.
    kinds_of(st.integers(0, 100), st.integers(1, 20), ahead=30),  # A cut prompt.
)


# The interpreter is slow: small sizes, and the same examples in each run.
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(KINDS, min_size=1, max_size=3),
    layout=st.sampled_from(((28, 4), (8, 8), (8, 2), (9, 3))),
    dim=st.sampled_from((64, 96, 128)),
    page=st.sampled_from((16, 32, 256)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16, torch.float16)),
    part=st.sampled_from((64, 128)),
)
@example(  # A block that shares its keys among several programs, beside one that does not and a long causal prompt.
    kinds=[Kind(1500, 32), Kind(31, 32), Kind(0, 90, causal=True)],
    layout=(7, 1), dim=96, page=32, dtype=torch.float32, part=1024,
)  # fmt: skip
@torch.inference_mode()
def test_segments_equal_float64(
    kinds: list[Kind], layout: tuple[int, int], dim: int, page: int, dtype: torch.dtype, part: int, device: torch.device
) -> None:
    heads, kv_heads = layout
    config = TransformerConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=dim,
    )  # fmt: skip
    counts = [-(-(kind.start + kind.length + kind.ahead) // page) for kind in kinds]
    cache = PagedCache(config, num_pages=sum(counts), page_size=page, device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    free = torch.randperm(sum(counts), generator=generator).tolist()
    segments = [
        Segment(kind.start, kind.length, [free.pop() for _ in range(count)], kind.causal, kind.ahead)
        for kind, count in zip(kinds, counts, strict=True)
    ]
    for stored in (cache.keys, cache.values):
        stored.fill_(float("nan"))  # Whoever reads what is not his own finds this.
        for segment in segments:
            slots = torch.from_numpy(segment.slots(page)).to(device)
            stored[0, slots] = torch.randn(len(slots), kv_heads, dim, generator=generator).to(stored)
    query = torch.randn(sum(kind.length for kind in kinds), heads, dim, generator=generator).to(device, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cdlm.model.attention.triton.PART", part)
        found = TritonAttention(cache, segments).attend(query, cache.keys[0], cache.values[0])
    for segment, mine, out in zip(
        segments,
        query.split([kind.length for kind in kinds]),
        found.split([kind.length for kind in kinds]),
        strict=True,
    ):
        slots = torch.from_numpy(segment.slots(page)).to(device)
        keys, values = (
            stored[0, slots].double().repeat_interleave(heads // kv_heads, dim=1)
            for stored in (cache.keys, cache.values)
        )
        scores = torch.einsum("qhd,khd->hqk", mine.double(), keys) * dim**-0.5
        if segment.causal:
            own = segment.start + torch.arange(segment.length, device=device)
            hidden = torch.arange(len(slots), device=device) > own[:, None]
            scores = scores.masked_fill(hidden, float("-inf"))
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        near = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
        torch.testing.assert_close(out.double(), expected, atol=near, rtol=near)
