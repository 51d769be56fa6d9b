"""Attention on a GPU."""

import random

import pytest
import torch

from cdlm.model.attention.backends import find_attention
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.sdpa import SdpaAttention
from tests.support.attention import CONFIG, PAGE, PAGES, draw_segments


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["flex", "triton"])
def test_on_a_gpu_the_kernels_equal_sdpa(name: str) -> None:
    cuda, results = torch.device("cuda"), []
    for attention in (SdpaAttention, find_attention(name, device=cuda, page_size=PAGE)):  # type: ignore[arg-type]
        torch.manual_seed(0)
        cache = PagedCache(CONFIG, num_pages=PAGES, page_size=PAGE, device=cuda, dtype=torch.bfloat16)
        cache.keys.normal_()
        cache.values.normal_()
        segments = draw_segments(random.Random(0))
        total = sum(segment.length for segment in segments)
        query, key, value = (torch.randn(total, heads, 16).to(cuda, torch.bfloat16) for heads in (4, 2, 2))
        results.append(attention(cache, segments)(0, query, key, value).float())
    torch.testing.assert_close(results[1], results[0], atol=2e-2, rtol=2e-2)
