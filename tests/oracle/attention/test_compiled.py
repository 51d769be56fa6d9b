"""Attention that is compiled here, by a compiler of C++, shape by shape: it takes the longest of all.

In the usual run one shape is compiled, and what the kernel is told to see is read without compiling it.
"""

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torch.nn.functional import scaled_dot_product_attention

from cdlm.model.attention import flex
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.flex import FlexAttention
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Segment
from tests.support.attention import CONFIG, PAGE, PAGES, check_cuts, check_segments

# What the compiler imports warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def dense(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_mask: BlockMask, **kwargs: Any) -> Any:
    """What a block mask says, slot by slot: the blocks of keys that a block of queries has, and the mask inside them.

    Queries that pad see nothing.
    """
    queries, slots = query.shape[2], keys.shape[2]
    rows, columns = block_mask.BLOCK_SIZE
    blocks = block_mask.to_dense().bool().repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    inside = create_mask(block_mask.mask_mod, 1, 1, queries, slots, device="cpu")
    return scaled_dot_product_attention(query, keys, values, blocks[:, :, :queries, :slots] & inside, **kwargs)


@pytest.mark.parametrize("check", [check_segments, check_cuts])
def test_the_mask_shows_every_segment_its_own_request(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_kernel", lambda: dense)
    check(FlexAttention)


@torch.inference_mode()
def test_a_compiled_shape_gives_what_sdpa_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    segments = [Segment(0, 21, [5, 1], causal=True), Segment(21, 8, [5, 1]), Segment(7, 9, [3], causal=False)]
    query = torch.randn(38, 4, 16, generator=generator)
    key, value = torch.randn(2, 38, 2, 16, generator=generator)
    found = []
    for attention in (SdpaAttention, FlexAttention):
        cache = PagedCache(CONFIG, num_pages=PAGES, page_size=PAGE, device=torch.device("cpu"), dtype=torch.float32)
        for stored in (cache.keys, cache.values):
            stored.fill_(0.5)
        found.append(attention(cache, segments)(0, query, key, value))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.whole
def test_every_segment_sees_its_own_request_up_to_its_end() -> None:
    check_segments(FlexAttention)


@pytest.mark.whole
def test_a_cut_segment_sees_what_the_whole_saw() -> None:
    check_cuts(FlexAttention)
