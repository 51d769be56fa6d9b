"""What an engine on a GPU does before it is ready: the largest step, for its memory, and the recording of graphs."""

import logging

import torch

from cdlm.model.config import CheckpointError
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import FinalizationRule
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.row import RowResult, RowWork, Span
from cdlm.model.runner import ModelRunner
from cdlm.scheduler.errors import EngineStartError
from cdlm.scheduler.options import EngineOptions

logger = logging.getLogger(__name__)

# Beside what the largest step takes: what libraries and the allocator keep.
RESERVE = 512 * 2**20


def largest_step(runner: ModelRunner, options: EngineOptions) -> list[RowResult]:
    """One step of as many rows as there may be, each of which commits a block and denoises the next.

    If there is room for more tokens, the first row has a prompt of them. Nothing of it is kept.
    """
    block, page = runner.manifest.block_length, options.page_size
    alone = runner.manifest.first_token == "autoregressive"
    rule = FinalizationRule("threshold", 1.0) if runner.guiding is None else FinalizationRule("guide", 0.0)
    rows = max(1, min(options.rows, options.max_num_batched_tokens // (2 * block)))
    room = min(options.max_num_batched_tokens - rows * 2 * block, runner.manifest.max_model_len - block)
    lengths = [block + max(0, room)] + [block] * (rows - 1)
    works = []
    for row, length in enumerate(lengths):
        runner.rows.open(row, RowSettings(DecodingParams(), rule, block, [], [0]))
        runner.rows.open_block(row, BlockStart([], [], block, {}))
        # All write to the same pages: what they hold does not matter.
        pages = list(range(-(-(length + block) // page)))
        spans, by_guide = [Span(0, [0] * length)], rule.name == "guide"
        works.append(RowWork(row, pages, spans, length, denoise=not alone, by_guide=by_guide))
    try:
        return runner.step(works)
    finally:
        for row in range(rows):
            runner.rows.close(row)


def memory_of_the_largest_step(checkpoint: Checkpoint, options: EngineOptions) -> int:
    """Bytes of a GPU that the largest step takes beside weights and pages, and a reserve.

    Raises:
        EngineStartError: it does not fit beside the weights.
    """
    device = checkpoint.transformer.embed_tokens.weight.device
    tokens = max(options.max_num_batched_tokens, checkpoint.manifest.max_model_len) + checkpoint.manifest.block_length
    try:
        runner = ModelRunner(
            checkpoint,
            num_pages=-(-tokens // options.page_size),
            page_size=options.page_size,
            max_rows=options.rows,
            attention_backend=options.attention_backend,
            cuda_graphs=False,
        )
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        largest_step(runner, options)
        torch.cuda.synchronize(device)
        taken = torch.cuda.max_memory_allocated(device) - before
    except torch.OutOfMemoryError as error:
        raise EngineStartError(
            f"the weights leave no memory for a step of {options.max_num_batched_tokens} tokens;"
            " lower max_num_batched_tokens or max_num_seqs"
        ) from error
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    del runner
    torch.cuda.empty_cache()
    logger.info("the largest step takes %.2f GiB", taken / 2**30)
    return taken + RESERVE
