"""Measures this machine's processor and real forwards on it, to check the computed bounds."""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear

from cdlm.cli.display import quantity
from cdlm.cli.plan.inputs import Inputs, PlanError, Shape
from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.sdpa import SdpaAttention
from cdlm.model.attention.segments import Segment
from cdlm.model.config import TransformerConfig
from cdlm.model.device import DTYPES
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.model.roofline.accelerators import Accelerator
from cdlm.model.roofline.cost import PRECISIONS, ModelCost
from cdlm.model.roofline.roof import Roof

ROWS = (1, 4, 16)
REPEATS = 7
SECONDS = 3.0  # Longest time for repeating one measurement.
SMALLEST_BUFFER, LARGEST_BUFFER = 1 << 20, 1 << 30  # Bytes.


def measure_processor(shape: Shape, block_length: int, dtype: str) -> Accelerator:
    """Measures the processor's peak rates for this model, in this dtype and with torch's threads.

    Bandwidth is measured on a buffer as large as the weights that a forward reads, since smaller weights stay in the
    processor's cache: the better of reading (a sum) and copying. FLOP/s is the best matrix product of the model's
    shapes, for one row and for sixteen.

    Raises:
        PlanError: the weights do not fit into free memory.
    """
    cost = ModelCost(shape.config, PRECISIONS[dtype])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    # A gigabyte for buffers and activations, a quarter for allocator overhead.
    if cost.weight_bytes * 1.25 + 1e9 > free:
        needed = quantity(cost.weight_bytes, "B")
        raise PlanError(f"--measure: {needed} of weights do not fit into the {quantity(free, 'B')} that are free")
    reading, copying = _bandwidths(int(cost.streamed_bytes))
    flops_per_s, product = _matmul_rate(shape.config, block_length, DTYPES[dtype])
    return Accelerator(
        name="cpu",
        half_flops_per_s=flops_per_s,
        single_flops_per_s=flops_per_s,
        bytes_per_s=max(reading, copying),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        source=f"measured: read {quantity(reading, 'B/s')}, copy {quantity(copying, 'B/s')}, best product {product}",
    )


def measure_forwards(inputs: Inputs) -> dict[str, Any]:
    """Predicted and measured seconds of denoise forwards with several numbers of rows: layers and LM head.

    The processor's share is the share of CPU time that this process got: below one, the measured time is too long.
    """
    transformer, weights = _transformer(inputs)
    block = inputs.block_length
    row = inputs.cost.row(block, block * (inputs.context + block), inputs.context, block)
    roof = Roof(inputs.device.half_flops_per_s, inputs.device.bytes_per_s)  # Peaks: efficiency is what is measured.
    forwards = []
    for rows in ROWS:
        work = inputs.cost.forward(row, rows)
        predicted = roof.seconds(work)
        forward = _denoise(transformer, inputs, rows)
        busy, started = time.process_time(), time.perf_counter()
        measured = _median_seconds(forward)
        share = (time.process_time() - busy) / (time.perf_counter() - started) / torch.get_num_threads()
        forwards.append(
            {
                "rows": rows,
                "tokens": rows * block,
                "bound": "compute" if roof.compute_s(work) >= roof.memory_s(work) else "memory",
                "predicted_s": predicted,
                "measured_s": measured,
                "measured_over_predicted": measured / predicted,
                "processor_share": share,
            }
        )
    return {"threads": torch.get_num_threads(), "weights": weights, "forwards": forwards}


def _transformer(inputs: Inputs) -> tuple[Transformer, str]:
    """The checkpoint's transformer, or one with random weights; and a description of the weights."""
    shape, dtype = inputs.shape, DTYPES[inputs.dtype]
    directory = shape.directory
    if directory is not None and any(directory.glob("*.safetensors")):
        return load_checkpoint(directory, dtype=dtype).transformer, f"weights of {directory.name}"
    with torch.device("meta"):
        transformer = Transformer(shape.config).to(dtype)
    transformer.to_empty(device="cpu")
    transformer.tie_weights()
    transformer.rotary.reset(torch.device("cpu"))
    for parameter in transformer.parameters():
        # Memory that was never written is one shared page of zeros, which would stay in the cache.
        torch.nn.init.uniform_(parameter, -0.02, 0.02)
    return transformer.eval().requires_grad_(False), "random weights"


def _denoise(transformer: Transformer, inputs: Inputs, rows: int) -> Callable[[], object]:
    """A forward as in the engine: each row is a segment of one block after its cached context."""
    block, size = inputs.block_length, inputs.page_size
    pages = -(-(inputs.context + block) // size)
    cpu = torch.device("cpu")
    cache = PagedCache(
        transformer.config, num_pages=rows * pages, page_size=size, device=cpu, dtype=DTYPES[inputs.dtype]
    )
    segments = [Segment(inputs.context, block, list(range(row * pages, (row + 1) * pages))) for row in range(rows)]
    attention = SdpaAttention(cache, segments)
    ids = torch.randint(transformer.config.vocab_size, (rows * block,))

    @torch.inference_mode()
    def forward() -> object:
        return transformer.logits(transformer(ids, attention.positions, attention))

    return forward


def _bandwidths(size: int) -> tuple[float, float]:
    """Bytes/s of reading and of copying a buffer of about ``size`` bytes."""
    source = torch.ones(min(max(size, SMALLEST_BUFFER), LARGEST_BUFFER) // 4)
    target = torch.empty_like(source)
    reading = source.nbytes / _median_seconds(source.sum)
    copying = 2 * source.nbytes / _median_seconds(lambda: target.copy_(source))
    return reading, copying


def _matmul_rate(config: TransformerConfig, block_length: int, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s of the fastest of the model's products, and its shape: tokens x inputs x outputs."""
    best, name = 0.0, ""
    for tokens in (block_length, max(ROWS) * block_length):
        for inner, outer in (
            (config.hidden_size, config.intermediate_size),
            (config.intermediate_size, config.hidden_size),
            (config.num_heads * config.head_dim, config.hidden_size),
        ):
            x, weight = torch.rand(tokens, inner, dtype=dtype), torch.rand(outer, inner, dtype=dtype)
            seconds = _median_seconds(lambda x=x, weight=weight: linear(x, weight))  # type: ignore[misc]
            rate = 2 * tokens * inner * outer / seconds
            if rate > best:
                best, name = rate, f"{tokens}x{inner}x{outer}"
    return best, name


def _median_seconds(run: Callable[[], object]) -> float:
    """Median wall time of ``run`` in seconds, after a warm-up."""
    run()
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < SECONDS:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
