"""Which implementation of attention an engine uses."""

import os
from importlib.util import find_spec

import torch

from cdlm.model.attention.paged import PagedAttention
from cdlm.model.config import AttentionBackend, CheckpointError

# The oldest GPUs that Triton compiles for.
_OLDEST = (8, 0)


def resolve_attention(name: AttentionBackend, device: torch.device) -> AttentionBackend:
    """``auto`` is Triton on a GPU that it compiles for, and SDPA elsewhere."""
    if name != "auto":
        return name
    usable = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _OLDEST
    return "triton" if usable and find_spec("triton") is not None else "sdpa"


def find_attention(name: AttentionBackend, *, device: torch.device, page_size: int) -> type[PagedAttention]:
    """The implementation of that name; only its own module is imported.

    Raises:
        CheckpointError: it does not run on this device, or with this page size.
    """
    name = resolve_attention(name, device)
    if name == "triton":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if device.type != "cuda" and not interpreted:
            raise CheckpointError(f"attention_backend triton needs CUDA, got {device}; use sdpa")
        if find_spec("triton") is None:
            raise CheckpointError("attention_backend triton needs the package triton, which PyTorch for CUDA brings")
        if not interpreted and torch.cuda.get_device_capability(device) < _OLDEST:
            raise CheckpointError(
                f"attention_backend triton: {torch.cuda.get_device_name(device)} is too old for it; use sdpa"
            )
        from cdlm.model.attention.triton import TritonAttention

        return TritonAttention
    if name == "flex":
        if page_size % 16:
            raise CheckpointError(f"attention_backend flex needs a page_size that is a multiple of 16, got {page_size}")
        from cdlm.model.attention.flex import FlexAttention

        return FlexAttention
    from cdlm.model.attention.sdpa import SdpaAttention

    return SdpaAttention


def resolve_graphs(
    asked: bool | None, name: AttentionBackend, device: torch.device, *, shared: bool, guided: bool = False
) -> bool:
    """Whether forwards are recorded as CUDA graphs; ``None`` records them wherever that can be done.

    Args:
        shared: the layers are cut over several processes.
        guided: a guide model has a forward in each step.

    Raises:
        CheckpointError: it is asked for and cannot be done.
    """
    name = resolve_attention(name, device)
    if asked and name != "triton":
        raise CheckpointError(f"cuda_graphs needs attention_backend triton, not {name}")
    if asked and device.type != "cuda":
        raise CheckpointError(f"cuda_graphs needs CUDA, got {device}")
    if asked and shared:
        raise CheckpointError("cuda_graphs cannot record a forward over several ranks, which follow commands")
    if asked and guided:
        raise CheckpointError("cuda_graphs cannot record a step in which guide_model has a forward of its own")
    able = name == "triton" and device.type == "cuda" and not shared and not guided
    return able if asked is None else asked
