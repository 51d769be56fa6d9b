"""Predicts what an engine would load and whether it fits, without reading weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from cdlm.model.attention.backends import find_attention, resolve_attention, resolve_graphs
from cdlm.model.attention.cache import PagedCache
from cdlm.model.config import AttentionBackend, CheckpointError
from cdlm.model.device import free_memory, resolve_dtype
from cdlm.model.loading.checkpoint import Description, describe_checkpoint
from cdlm.model.loading.packing import packable
from cdlm.model.loading.quantization import check_quantization, check_quantized_shape
from cdlm.model.network.parameters import count_parameters
from cdlm.model.parallel.transformer import share_config
from cdlm.model.roofline.cost import ModelCost, Precision
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.loading import check_guide_options, check_step_size, pool_pages, rank_device
from cdlm.scheduler.options import EngineOptions


@dataclass(frozen=True, slots=True)
class Outlook:
    """A prediction for an engine that can start. Sizes are in bytes.

    Attributes:
        described: the checkpoint's metadata.
        device: the first rank's device.
        dtype: dtype of weights and arithmetic.
        parameters: number of weights of the whole transformer.
        weight_bytes: one rank's weights and those of a guide model, once loaded.
        free_bytes: memory that is free on the device now.
        page_bytes: one page of the KV cache on one rank, with the guide model's.
        pages: number of pages in the KV cache.
        packed: whether large weights are packed for a CPU's kernels.
        attention: the attention backend.
        graphs: whether CUDA graphs are recorded.
    """

    described: Description
    device: torch.device
    dtype: torch.dtype
    parameters: int
    weight_bytes: int
    free_bytes: int
    page_bytes: int
    pages: int
    packed: bool
    attention: AttentionBackend
    graphs: bool


def outlook(options: EngineOptions) -> Outlook:
    """Predicts the start of an engine with ``options``.

    Raises:
        EngineStartError: the engine could not start; the message says why.
    """
    device = rank_device(options, 0)
    size = options.tensor_parallel_size
    check_guide_options(options)
    try:
        dtype = resolve_dtype(options.dtype, device, drafts=options.draft_adapter is not None)
        described = describe_checkpoint(
            Path(options.model),
            adapter=Path(options.adapter) if options.adapter else None,
            draft_adapter=Path(options.draft_adapter) if options.draft_adapter else None,
            guide_model=Path(options.guide_model) if options.guide_model else None,
            block_length=options.block_length,
            confidence_threshold=options.confidence_threshold,
            max_model_len=options.max_model_len,
            rope_scaling_factor=options.rope_scaling_factor,
        )
        described.check_weights()
        share = share_config(described.shape, size)
        guides = [described.guide.shape] if described.guide else []
        check_quantization(options.quantization, device, dtype, size)
        check_quantized_shape(options.quantization, described.shape)
        find_attention(options.attention_backend, device=device, page_size=options.page_size)
        attention = resolve_attention(options.attention_backend, device)
        graphs = resolve_graphs(options.cuda_graphs, attention, device, shared=size > 1, guided=bool(guides))
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    check_step_size(options, described.manifest)
    plain = Precision(dtype.itemsize, dtype.itemsize, dtype.itemsize == 2)
    stored = plain if options.quantization == "none" else Precision(1, dtype.itemsize, dtype.itemsize == 2)
    # Weights are loaded in full precision, then quantized in place.
    loaded, kept = (
        sum(int(ModelCost(shape, how, size).weight_bytes) for shape in (described.shape, *guides))
        for how in (plain, stored)
    )
    free = free_memory(device)
    ranks_here = 1 if device.type == "cuda" else size
    if loaded * ranks_here > free:
        raise EngineStartError(
            f"the weights take {loaded * ranks_here} bytes in {str(dtype)[6:]}, and {free} are free on {device}"
        )
    page = sum(PagedCache.bytes_per_page(shape, options.page_size, dtype) for shape in (share, *guides))
    return Outlook(
        described=described,
        device=device,
        dtype=dtype,
        parameters=count_parameters(described.shape).total,
        weight_bytes=kept,
        free_bytes=free,
        page_bytes=page,
        pages=pool_pages(options, described.manifest, page, device, free - kept * ranks_here),
        packed=options.pack_weights and size == 1 and device.type == "cpu" and packable(),
        attention=attention,
        graphs=graphs,
    )
