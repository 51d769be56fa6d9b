"""What the largest step takes beside the weights and the pages."""

from typing import Any

import torch

from benchmarks.gpu.report import Budget
from benchmarks.gpu.shapes import random_model
from benchmarks.gpu.speed import runner_of, works_of


def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Figures in GiB: weights, pages, and the peak above both of a step in which every row commits and denoises."""
    del budget
    count, cached = (2, 40) if small else (64, 2048)
    checkpoint = random_model(device, small=small)
    runner, pages = runner_of(checkpoint, "triton", count, cached)
    runner.run_ahead = False  # A step alone.
    works = works_of(runner, count, cached, pages, commit=True)
    weights = sum(each.numel() * each.element_size() for each in checkpoint.transformer.parameters())
    pool = sum(each.numel() * each.element_size() for each in (runner.cache.keys, runner.cache.values))
    figures = {"weights_gib": weights / 2**30, "pages_gib": pool / 2**30}
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        runner.step(works)
        torch.cuda.synchronize()
        figures["allocated_gib"] = before / 2**30
        figures["step_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30
    else:
        runner.step(works)
    return {"rows": [], "figures": figures, "failed": []}
