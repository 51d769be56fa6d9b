"""Every implementation of attention gives what plain attention over each segment's own keys gives."""

import pytest
import torch

from cdlm.model.attention.backends import find_attention
from cdlm.model.attention.paged import PagedAttention
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.triton import TritonAttention
from cdlm.model.attention.varlen import VarlenAttention
from cdlm.model.config import CheckpointError
from tests.support.attention import CheckedVarlen, check_cuts, check_segments

everywhere = pytest.mark.parametrize(
    "attention",
    [
        SdpaAttention,
        CheckedVarlen,
        pytest.param(TritonAttention, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted")),
    ],
    ids=["sdpa", "varlen", "triton"],
)


@everywhere
def test_every_segment_sees_its_own_request_up_to_its_end(attention: type[PagedAttention]) -> None:
    check_segments(attention)


@everywhere
def test_a_cut_segment_sees_what_the_whole_saw(attention: type[PagedAttention]) -> None:
    check_cuts(attention)


def test_what_cannot_run_here_is_refused() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(CheckpointError, match="varlen needs CUDA and a 16-bit dtype, got cpu and float32"):
        find_attention("varlen", device=cpu, dtype=torch.float32, page_size=32)
    with pytest.raises(CheckpointError, match="multiple of 16, got 24"):
        find_attention("flex", device=cpu, dtype=torch.float32, page_size=24)
    assert find_attention("varlen", device=torch.device("cuda"), dtype=torch.bfloat16, page_size=256) is VarlenAttention
    with pytest.raises(CheckpointError, match="varlen needs a page_size that is a multiple of 256, got 32"):
        find_attention("varlen", device=torch.device("cuda"), dtype=torch.bfloat16, page_size=32)
