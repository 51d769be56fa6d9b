"""Milliseconds of a step of a Dream-7B shape, and how near that is to what the device could do."""

from typing import Any

import torch

from benchmarks.gpu.decoder import open_rows
from benchmarks.gpu.report import Budget, milliseconds
from benchmarks.gpu.shapes import random_model
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.row import RowWork, Span
from cdlm.model.runner import ModelRunner

ROWS, CACHED = (1, 4, 16, 64), (512, 2048)
PAGE = 32


def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Rows: what kind of step, how many rows and cached tokens, ms, tokens per second at one token a step, shares of
    the two floors: reading the weights once, and the products."""
    bandwidth, products = rates(device, small=small)
    rows: list[dict[str, Any]] = []
    for block_length in (32, 1):
        checkpoint = random_model(device, small=small, block_length=8 if small and block_length > 1 else block_length)
        for backend in ("triton", "sdpa") if block_length > 1 else ("triton",):
            for cached in (40,) if small else CACHED:
                for count in (1, 2) if small else ROWS:
                    if backend == "sdpa" and (count, cached) not in ((1, 512), (2, 40), (16, 512)):
                        continue
                    if not budget.over:
                        rows += _steps(checkpoint, device, backend, count, cached, bandwidth, products)
        del checkpoint
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {"rows": rows, "figures": {"bytes_per_s": bandwidth, "flops_per_s": products}, "failed": []}


def rates(device: torch.device, *, small: bool) -> tuple[float, float]:
    """Bytes per second of a copy, read and written counted, and FLOP/s of a square product, as measured here."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    source = torch.empty(2**20 if small else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / milliseconds(lambda: target.copy_(source), device) * 1e3
    side = 256 if small else 8192
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return copied, 2 * side**3 / milliseconds(lambda: a @ b, device) * 1e3


def runner_of(checkpoint: Checkpoint, backend: Any, rows: int, cached: int) -> tuple[ModelRunner, int]:
    """A runner with rows open behind so many cached tokens, and how many pages each has."""
    block = checkpoint.manifest.block_length
    pages = -(-(cached + 2 * block) // PAGE)
    runner = ModelRunner(checkpoint, num_pages=rows * pages, page_size=PAGE, max_rows=rows, attention_backend=backend)
    open_rows(runner, [[1] * block for _ in range(rows)], pages)
    return runner, pages


def works_of(runner: ModelRunner, rows: int, cached: int, pages: int, *, commit: bool) -> list[RowWork]:
    """Rows that denoise the block behind ``cached`` tokens, after committing the one before it where asked for."""
    block = runner.manifest.block_length
    tables = [list(range(row * pages, (row + 1) * pages)) for row in range(rows)]
    if not commit:
        return [RowWork(row, tables[row], [], cached) for row in range(rows)]
    span = [Span(cached, [1] * block, causal=block == 1)]
    return [RowWork(row, tables[row], span, cached + block, denoise=block > 1) for row in range(rows)]


def _steps(
    checkpoint: Checkpoint,
    device: torch.device,
    backend: str,
    count: int,
    cached: int,
    bandwidth: float,
    products: float,
) -> list[dict[str, Any]]:
    block = checkpoint.manifest.block_length
    runner, pages = runner_of(checkpoint, backend, count, cached)
    weights = sum(parameter.numel() for parameter in runner.transformer.parameters())
    size = next(runner.transformer.parameters()).element_size()
    found = []
    # Whether rows commit first, and whether the next step is launched before this one is read.
    for commit, ahead in ((False, False), (False, True), (True, False)) if block > 1 else ((True, False),):
        runner.run_ahead = ahead
        works = works_of(runner, count, cached, pages, commit=commit)

        def step(works: list[RowWork] = works) -> None:
            for row in range(count):  # A block that never ends.
                runner.canvas.left[row] = block
                runner.canvas.steps[row] = 0
            runner.canvas.masked.fill_(True)
            runner.canvas.tokens.fill_(runner.manifest.mask_token_id)
            runner.step(works)

        ms = milliseconds(step, device, repeats=12)
        tokens = count * block * (1 + commit) if block > 1 else count
        read, multiplied = weights * size / bandwidth * 1e3, 2 * weights * tokens / products * 1e3
        found.append(
            {
                "step": "commit and denoise" if commit and block > 1 else "denoise" if block > 1 else "autoregressive",
                "backend": backend,
                "ahead": ahead,
                "rows": count,
                "cached": cached,
                "ms": ms,
                "tokens_per_s": count / ms * 1e3,
                "of_reading": read / ms,
                "of_products": multiplied / ms,
            }
        )
    return found
