"""Loads an engine's checkpoint, and computes the size of its KV cache."""

import logging
from functools import partial
from pathlib import Path

import torch

from cdlm.model.attention.cache import PagedCache
from cdlm.model.config import CANNOT_REPLACE, CheckpointError, Manifest, TransformerConfig
from cdlm.model.device import free_memory, resolve_device, resolve_dtype
from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.model.loading.packing import pack, packable, worthwhile
from cdlm.model.loading.quantization import check_quantization, check_quantized_shape, quantize
from cdlm.model.network.transformer import Transformer
from cdlm.model.parallel.transformer import RankTransformer, whole_config
from cdlm.model.roofline.accelerators import accelerator_of_driver
from cdlm.model.roofline.cost import PRECISIONS, ModelCost
from cdlm.model.roofline.rows import (
    DEFAULT_ROWS,
    UNMEASURED,
    RowChoice,
    fewest,
    rows_by_rates,
    rows_in_pool,
    rows_in_step,
    typical_context,
    typical_decoding,
)
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions

logger = logging.getLogger(__name__)

# Of the memory that is free once the weights are there, and on a GPU the largest step. The rest is for what was not
# measured, and on a CPU for everyone else.
FREE_SHARE_GPU, FREE_SHARE_CPU = 0.95, 0.25


def rank_device(options: EngineOptions, rank: int) -> torch.device:
    """The device of a rank: rank i runs on GPU i.

    Raises:
        EngineStartError: the device does not exist, or there are fewer GPUs than ranks.
    """
    size = options.tensor_parallel_size
    try:
        device = resolve_device(options.device)
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    if size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise EngineStartError(f"device {device}: {size} ranks take the GPUs in their order; ask for cuda")
    if torch.cuda.device_count() < size:
        raise EngineStartError(f"tensor_parallel_size {size}: there are {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", rank)


def load_weights(options: EngineOptions, rank: int = 0) -> Checkpoint:
    """Loads the checkpoint of ``options``, or one rank's share of it.

    Raises:
        EngineStartError: it cannot be loaded; the message says why.
    """
    size = options.tensor_parallel_size
    check_guide_options(options)
    device = rank_device(options, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Where streams, graphs and kernels belong that are not told.
    try:
        dtype = resolve_dtype(options.dtype, device, drafts=options.draft_adapter is not None)
        check_quantization(options.quantization, device, dtype, size)
        checkpoint = load_checkpoint(
            Path(options.model),
            adapter=Path(options.adapter) if options.adapter else None,
            draft_adapter=Path(options.draft_adapter) if options.draft_adapter else None,
            guide_model=Path(options.guide_model) if options.guide_model and rank == 0 else None,
            device=device,
            dtype=dtype,
            block_length=options.block_length,
            confidence_threshold=options.confidence_threshold,
            max_model_len=options.max_model_len,
            rope_scaling_factor=options.rope_scaling_factor,
            build=partial(_build, options=options, rank=rank),
        )
        for transformer in checkpoint.transformers:
            quantize(transformer, options.quantization)
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    if options.pack_weights and size == 1 and packable():
        for transformer in checkpoint.transformers:
            pack(transformer, partial(worthwhile, rows=_step_rows(checkpoint)))
    return checkpoint


def _build(shape: TransformerConfig, *, options: EngineOptions, rank: int) -> Transformer:
    check_quantized_shape(options.quantization, shape)  # Before weights are read that would be quantized.
    size = options.tensor_parallel_size
    return Transformer(shape) if size == 1 else RankTransformer(shape, rank=rank, size=size)


def _step_rows(checkpoint: Checkpoint) -> int:
    """The rows of a step of one request: a block, or a known token and the masked rows that draft behind it."""
    drafter = checkpoint.drafter
    return checkpoint.manifest.block_length if drafter is None else 1 + drafter.drafts.window


def rows_and_pages(options: EngineOptions, checkpoint: Checkpoint) -> tuple[EngineOptions, int]:
    """The options with a number of rows in place of ``auto``, and the number of KV cache pages.

    Raises:
        EngineStartError: see ``page_count``.
    """
    if options.max_num_seqs != "auto":
        return options, page_count(options, checkpoint)
    block = checkpoint.manifest.block_length
    device = checkpoint.transformer.embed_tokens.weight.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    choice = fewest(rows_on(name, options, checkpoint), rows_in_step(options.max_num_batched_tokens, block))
    pages = page_count(options.model_copy(update={"max_num_seqs": choice.rows}), checkpoint)
    positions = typical_context(checkpoint.manifest) + block
    choice = fewest(choice, rows_in_pool(pages, options.page_size, positions))
    logger.info("max_num_seqs auto: %d rows: %s", choice.rows, choice.reason)
    return options.model_copy(update={"max_num_seqs": choice.rows}), pages


def rows_on(name: str | None, options: EngineOptions, checkpoint: Checkpoint) -> RowChoice | None:
    """As many rows as the rates of the GPU that drivers call ``name`` suggest; ``None`` if they suggest no bound.

    ``None`` as a name is a CPU.
    """
    if name is None:
        return RowChoice(DEFAULT_ROWS, UNMEASURED)
    device = accelerator_of_driver(name)
    if device is None:
        return RowChoice(DEFAULT_ROWS, f"the rates of {name} are not known")
    size = options.tensor_parallel_size
    config = whole_config(checkpoint.transformer.config, size)
    dtype = str(checkpoint.transformer.embed_tokens.weight.dtype).removeprefix("torch.")
    precision = PRECISIONS[dtype if options.quantization == "none" else options.quantization]
    manifest = checkpoint.manifest
    return rows_by_rates(
        ModelCost(config, precision, size),
        device.roof(precision),
        typical_decoding(manifest),
        typical_context(manifest),
        name,
    )


def page_count(options: EngineOptions, checkpoint: Checkpoint) -> int:
    """Number of KV cache pages for a loaded checkpoint; all ranks have as many as the rank with the least memory.

    Raises:
        EngineStartError: the pages are too few for one request of the full context.
    """
    weight = checkpoint.transformer.embed_tokens.weight
    free = [free_memory(weight.device)]
    if checkpoint.followers is not None:
        free += checkpoint.followers.free_memory
    elif weight.device.type == "cuda" and options.kv_cache_memory is None:
        from cdlm.scheduler.warm_up import memory_of_the_largest_step

        free = [max(0, free_memory(weight.device) - memory_of_the_largest_step(checkpoint, options))]
    shapes = [transformer.config for transformer in checkpoint.transformers]
    page = sum(PagedCache.bytes_per_page(shape, options.page_size, weight.dtype) for shape in shapes)
    return pool_pages(options, checkpoint.manifest, page, weight.device, min(free))


def pool_pages(options: EngineOptions, manifest: Manifest, page: int, device: torch.device, free: int) -> int:
    """Number of pages that fit into ``kv_cache_memory``; default: a share of ``free``, at most what all rows can use.

    Ranks on a CPU divide its memory between them.

    Args:
        page: bytes per page.
        free: bytes free on a rank's device after its weights are loaded.

    Raises:
        EngineStartError: the pages are too few for one request of the full context.
    """
    one_request = -(-(manifest.max_model_len + manifest.block_length) // options.page_size)
    memory = options.kv_cache_memory
    if memory is None:
        share = FREE_SHARE_GPU if device.type == "cuda" else FREE_SHARE_CPU / options.tensor_parallel_size
        memory = min(int(share * free), one_request * page * options.rows)
    pages = memory // page
    if pages < one_request:
        asked = "kv_cache_memory" if options.kv_cache_memory is not None else "the free memory for the KV cache,"
        raise EngineStartError(
            f"{asked} {memory} holds {pages} pages of {page} bytes; one request of the full context needs {one_request}"
        )
    return pages


def check_guide_options(options: EngineOptions) -> None:
    """Raises ``EngineStartError`` for options that contradict each other about a guide model."""
    guide = options.guide_model
    if guide is None and options.decoding == "guide":
        raise EngineStartError("decoding guide needs guide_model, the model that guides")
    if guide is not None and options.draft_adapter is not None:
        raise EngineStartError(f"guide_model {guide} and draft_adapter {options.draft_adapter} exclude each other")


def check_edit_threshold(options: EngineOptions, manifest: Manifest) -> None:
    """Raises ``EngineStartError`` if the option ``edit_threshold`` could have no effect on any request."""
    value = options.edit_threshold
    if value is None or value >= 1.0:
        return
    if not manifest.can_replace:
        raise EngineStartError(f"edit_threshold {value:g}: {CANNOT_REPLACE}")
    if options.default_rule == "guide":
        raise EngineStartError(f"edit_threshold {value:g} and decoding guide exclude each other")


def check_step_size(options: EngineOptions, manifest: Manifest) -> None:
    """Checks that a step has room for one request beside a staged request.

    Raises:
        EngineStartError: ``max_num_batched_tokens`` is too small for that.
    """
    block = manifest.block_length
    largest = max(options.max_prefill_tokens, block) + block
    if options.max_num_batched_tokens - options.max_prefill_tokens < largest:
        raise EngineStartError(
            f"max_num_batched_tokens {options.max_num_batched_tokens} has no room for {largest} tokens of a request"
            f" beside a staged one of max_prefill_tokens {options.max_prefill_tokens}"
        )
