"""Which implementation of attention an engine uses."""

import os
from importlib.util import find_spec

import torch

from cdlm.model.attention.paged import PagedAttention
from cdlm.model.config import AttentionBackend, CheckpointError


def find_attention(
    name: AttentionBackend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    page_size: int,
    cuda_graphs: bool = False,
    shared: bool = False,
) -> type[PagedAttention]:
    """Returns the implementation called ``name``; imports only that implementation's module.

    Args:
        cuda_graphs: whether forwards will be recorded as CUDA graphs.
        shared: whether the layers are split over several ranks.

    Raises:
        CheckpointError: the implementation does not support this device, dtype or page size, or cannot be recorded.
    """
    if cuda_graphs and name != "varlen":
        raise CheckpointError(f"CUDA graphs need attention_backend varlen, not {name}")
    if cuda_graphs and shared:
        raise CheckpointError("CUDA graphs cannot be recorded over several ranks")
    if name == "varlen":
        if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
            raise CheckpointError(
                f"attention_backend varlen needs CUDA and a 16-bit dtype, got {device} and {str(dtype)[6:]}"
            )
        if page_size % 256:  # FlashAttention-2 reads pages of no other sizes.
            raise CheckpointError(
                f"attention_backend varlen needs a page_size that is a multiple of 256, got {page_size}"
            )
        from cdlm.model.attention.varlen import VarlenAttention

        return VarlenAttention
    if name == "triton":
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise CheckpointError(f"attention_backend triton needs CUDA, got {device}")
        if find_spec("triton") is None:
            raise CheckpointError("attention_backend triton needs the package triton, which PyTorch for CUDA brings")
        from cdlm.model.attention.triton import TritonAttention

        return TritonAttention
    if name == "flex":
        if page_size % 16:
            raise CheckpointError(f"attention_backend flex needs a page_size that is a multiple of 16, got {page_size}")
        from cdlm.model.attention.flex import FlexAttention

        return FlexAttention
    from cdlm.model.attention.sdpa import SdpaAttention

    return SdpaAttention
