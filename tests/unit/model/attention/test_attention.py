"""Every implementation of attention gives what plain attention over each segment's own keys gives."""

import pytest
import torch

from cdlm.model.attention.backends import find_attention, resolve_attention, resolve_graphs
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.flex import FlexAttention
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Branch, Segment
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.config import CheckpointError
from tests.support.attention import CONFIG, PAGE, PAGES, check_cuts, check_segments

everywhere = pytest.mark.parametrize(
    "attention",
    [
        SdpaAttention,
        pytest.param(TritonAttention, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted")),
    ],
    ids=["sdpa", "triton"],
)


@everywhere
def test_every_segment_sees_its_own_request_up_to_its_end(attention: type[PagedAttention]) -> None:
    check_segments(attention)


@everywhere
def test_every_branch_sees_its_own_rows_and_what_is_before_it(attention: type[PagedAttention]) -> None:
    check_segments(attention, branched=True)


def test_flex_attention_refuses_branches() -> None:
    with pytest.raises(ValueError, match="no branches"):
        check_segments(FlexAttention, branched=True)


@everywhere
def test_a_cut_segment_sees_what_the_whole_saw(attention: type[PagedAttention]) -> None:
    check_cuts(attention)


def test_what_cannot_run_here_is_refused() -> None:
    with pytest.raises(CheckpointError, match="multiple of 16, got 24"):
        find_attention("flex", device=torch.device("cpu"), page_size=24)


def test_by_itself_it_is_sdpa_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert find_attention("auto", device=cpu, page_size=24) is SdpaAttention
    assert not resolve_graphs(None, "auto", cpu, shared=False)


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "triton"), ((8, 0), "triton"), ((7, 5), "sdpa")])
def test_by_itself_it_is_triton_on_a_gpu_that_triton_compiles_for(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch would say there is told to it: this machine may have no GPU."""
    cuda = torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    assert resolve_attention("auto", cuda) == expected
    assert resolve_graphs(None, "auto", cuda, shared=False) == (expected == "triton")
    assert not resolve_graphs(None, "auto", cuda, shared=True)
    assert not resolve_graphs(False, "auto", cuda, shared=False)
    if expected == "sdpa":
        with pytest.raises(CheckpointError, match="attention_backend triton: Tesla T4 is too old for it; use sdpa"):
            find_attention("triton", device=cuda, page_size=32)


@pytest.mark.parametrize(
    ("backend", "device", "shared", "problem"),
    [
        ("sdpa", "cuda", False, "needs attention_backend triton, not sdpa"),
        ("triton", "cpu", False, "needs CUDA, got cpu"),
        ("triton", "cuda", True, "cannot record a forward over several ranks"),
    ],
)
def test_graphs_that_cannot_be_recorded_are_refused(backend: str, device: str, shared: bool, problem: str) -> None:
    with pytest.raises(CheckpointError, match=f"cuda_graphs {problem}"):
        resolve_graphs(True, backend, torch.device(device), shared=shared)  # type: ignore[arg-type]


def test_in_16_bits_on_a_cpu_every_query_sees_its_own_keys() -> None:
    check_segments(SdpaAttention, branched=True, dtype=torch.bfloat16)


@pytest.mark.parametrize("page", [PAGE, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_on_a_cpu_a_row_does_not_depend_on_those_beside_it(dtype: torch.dtype, page: int) -> None:
    generator = torch.Generator().manual_seed(5)
    cache = PagedCache(CONFIG, num_pages=PAGES * PAGE // page, page_size=page, device=torch.device("cpu"), dtype=dtype)
    pages, others = list(range(54 * 4 // page + 1)), list(range(240 // page, 240 // page + 96 // page))
    for stored in (cache.keys, cache.values):
        stored.copy_(torch.randn(stored.shape, generator=generator))
        for free in set(range(PAGES * PAGE // page)) - {*pages, *others}:
            stored[:, free * page : (free + 1) * page] = torch.nan  # What is padded is not taken from there.
    known, other = Segment(200, 6, pages, causal=True), Segment(90, 1, others)
    branches = Segment(206, 9, pages, branches=(Branch(201, 4), Branch(206, 5)))
    together = [known, other, branches]
    shape = (sum(each.length for each in together), CONFIG.num_heads, CONFIG.head_dim)
    query = torch.randn(shape, generator=generator).to(dtype)
    keys, values = cache.keys[0], cache.values[0]
    out = SdpaAttention(cache, together).attend(query, keys, values)
    alone = [Segment(200 + row, 1, pages, causal=True) for row in range(6)] + [other]
    for row, segment in enumerate(alone):
        expected = SdpaAttention(cache, [segment]).attend(query[row : row + 1], keys, values)
        assert torch.equal(out[row : row + 1], expected)
    assert out.isfinite().all()
