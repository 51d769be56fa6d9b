"""Loads what an engine serves, and says how large its page pool may be."""

from pathlib import Path

from model.attention.cache import PagedCache
from model.checkpoint import Checkpoint, load_checkpoint
from model.config import CheckpointError
from model.device import free_memory, resolve_device, resolve_dtype
from model.quantization import quantise
from scheduler.errors import EngineStartError
from scheduler.options import EngineOptions

# Of the memory that is free once the weights are there; the rest is for activations, and on a CPU for everyone else.
FREE_SHARE_GPU, FREE_SHARE_CPU = 0.9, 0.25


def load(options: EngineOptions) -> Checkpoint:
    """The checkpoint of ``options``; raises ``EngineStartError`` with what is wrong with it."""
    try:
        device = resolve_device(options.device)
        checkpoint = load_checkpoint(
            Path(options.model),
            adapter=Path(options.adapter) if options.adapter else None,
            device=device,
            dtype=resolve_dtype(options.dtype, device),
            block_length=options.block_length,
            confidence_threshold=options.confidence_threshold,
            max_model_len=options.max_model_len,
            rope_scaling_factor=options.rope_scaling_factor,
        )
        quantise(checkpoint.transformer, options.quantization)
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    return checkpoint


def page_count(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Pages that fit into ``kv_cache_memory``; by default a share of what is free, and no more than rows can use.

    Raises:
        EngineStartError: they do not hold one request of the full context.
    """
    manifest = checkpoint.manifest
    weight = checkpoint.transformer.embed_tokens.weight
    page = PagedCache.bytes_per_page(checkpoint.transformer.config, options.page_size, weight.dtype)
    one_request = -(-(manifest.max_model_len + manifest.block_length) // options.page_size)
    memory = options.kv_cache_memory
    if memory is None:
        share = FREE_SHARE_GPU if weight.device.type == "cuda" else FREE_SHARE_CPU
        memory = min(int(share * free_memory(weight.device)), one_request * page * options.max_num_seqs)
    pages = memory // page
    if pages < one_request:
        asked = "kv_cache_memory" if options.kv_cache_memory is not None else "the free memory for the KV cache,"
        raise EngineStartError(
            f"{asked} {memory} holds {pages} pages of {page} bytes; one request of the full context needs {one_request}"
        )
    return pages
