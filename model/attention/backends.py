"""Which implementation of attention an engine uses."""

import torch

from model.attention.paged import PagedAttention
from model.config import AttentionBackend, CheckpointError


def find_attention(name: AttentionBackend, *, device: torch.device, dtype: torch.dtype) -> type[PagedAttention]:
    """The implementation of that name; only its own module is imported.

    Raises:
        CheckpointError: it does not run on this device or in this type.
    """
    if name == "varlen":
        if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
            raise CheckpointError(
                f"attention_backend varlen needs CUDA and a 16-bit dtype, got {device} and {str(dtype)[6:]}"
            )
        from model.attention.varlen import VarlenAttention

        return VarlenAttention
    from model.attention.sdpa import SdpaAttention

    return SdpaAttention
