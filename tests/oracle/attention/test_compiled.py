"""Attention that is compiled here, by a compiler of C++, shape by shape: it takes the longest of all.

In the usual run what the kernel is told to see is read, and nothing is compiled.
"""

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torch.nn.functional import scaled_dot_product_attention

from cdlm.model.attention import flex
from cdlm.model.attention.flex import FlexAttention
from tests.support.attention import check_cuts, check_segments

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


@pytest.mark.whole
def test_every_segment_sees_its_own_request_up_to_its_end() -> None:
    check_segments(FlexAttention)


@pytest.mark.whole
def test_a_cut_segment_sees_what_the_whole_saw() -> None:
    check_cuts(FlexAttention)
