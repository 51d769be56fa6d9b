"""The Triton kernels, beyond what is asked of every attention: types, head sizes, shared keys, compilers."""

import pytest
import torch

from cdlm.model.attention.backends import find_attention
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.config import CheckpointError, TransformerConfig

# With a GPU the compiled kernels, else their interpreter.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Three requests: a causal prompt, a block far behind its prompt, and a long piece that shares its keys with nobody.
SPANS = ((0, 21, True), (200, 8, False), (150, 70, False))


def poisoned_cache(heads: int, kv_heads: int, dim: int, page: int, dtype: torch.dtype) -> PagedCache:
    """Pages whose unwritten slots are NaN: nobody may read them."""
    config = TransformerConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=heads, num_kv_heads=kv_heads,
        head_dim=dim,
    )  # fmt: skip
    cache = PagedCache(config, num_pages=640 // page, page_size=page, device=DEVICE, dtype=dtype)
    for stored in (cache.keys, cache.values):
        stored.fill_(float("nan"))
    return cache


def segments_on(cache: PagedCache) -> list[Segment]:
    pages = torch.randperm(640 // cache.page_size, generator=torch.Generator().manual_seed(1)).tolist()
    tables = [[pages.pop() for _ in range(-(-(start + length) // cache.page_size))] for start, length, _ in SPANS]
    segments = [
        Segment(start, length, table, causal) for (start, length, causal), table in zip(SPANS, tables, strict=True)
    ]
    for segment in segments:  # What was computed before.
        slots = torch.from_numpy(segment.slots(cache.page_size))[: segment.start].to(DEVICE)
        for stored in (cache.keys, cache.values):
            stored[0, slots] = torch.randn(len(slots), *stored.shape[2:]).to(stored)
    return segments


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "page", "dtype", "near"),
    [
        (4, 2, 16, 16, torch.float32, 1e-5),
        (7, 1, 96, 32, torch.float32, 1e-5),  # Neither is a power of two.
        (8, 8, 64, 4, torch.bfloat16, 3e-2),
        (12, 2, 128, 32, torch.float16, 4e-3),
    ],
)
@torch.inference_mode()
def test_types_and_sizes(
    heads: int, kv_heads: int, dim: int, page: int, dtype: torch.dtype, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a segment's keys are shared among several programs, of which the last has few."""
    torch.manual_seed(0)
    monkeypatch.setattr("cdlm.model.attention.triton.PART", 64)
    cache = poisoned_cache(heads, kv_heads, dim, page, dtype)
    segments = segments_on(cache)
    total = sum(segment.length for segment in segments)
    query = torch.randn(total, heads, dim).to(DEVICE, dtype)
    key, value = torch.randn(2, total, kv_heads, dim).to(DEVICE, dtype)
    planned = TritonAttention(cache, segments)
    found = planned(0, query, key, value)
    cache.keys.nan_to_num_()
    cache.values.nan_to_num_()
    expected = SdpaAttention(cache, segments)(0, query, key, value)
    torch.testing.assert_close(found.float(), expected.float(), atol=near, rtol=near)


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("cdlm.model.attention.triton.PART", 64)
    cache = poisoned_cache(4, 2, 16, 16, torch.float32)
    segments = segments_on(cache)
    lengths = [segment.length for segment in segments]
    query, key, value = (torch.randn(sum(lengths), heads, 16).to(DEVICE) for heads in (4, 2, 2))
    together = TritonAttention(cache, segments)(0, query, key, value).split(lengths)
    parts = zip(segments, query.split(lengths), key.split(lengths), value.split(lengths), together, strict=True)
    for segment, *mine, expected in parts:
        assert TritonAttention(cache, [segment])(0, *mine).equal(expected)


def test_where_it_does_not_run_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(CheckpointError, match="triton needs CUDA, got cpu; use sdpa"):
        find_attention("triton", device=cpu, page_size=32)
    monkeypatch.setattr("cdlm.model.attention.backends.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match="needs the package triton"):
        find_attention("triton", device=cuda, page_size=32)
