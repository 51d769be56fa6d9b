"""Where the time of a step goes: the ten largest kernels, and how long the device is idle."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from benchmarks.gpu.report import Budget, milliseconds
from benchmarks.gpu.shapes import random_model
from benchmarks.gpu.speed import runner_of, works_of


def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Rows: a kernel, its calls and milliseconds per step, its share of the step."""
    del budget
    steps = 1 if small else 5
    count, cached = (2, 40) if small else (16, 512)
    runner, pages = runner_of(random_model(device, small=small), "triton", count, cached)
    works = works_of(runner, count, cached, pages, commit=False)

    def step() -> None:
        runner.canvas.masked.fill_(True)
        for row in range(count):
            runner.canvas.left[row] = runner.manifest.block_length
            runner.canvas.steps[row] = 0
        runner.canvas.tokens.fill_(runner.manifest.mask_token_id)
        runner.step(works)

    ms = milliseconds(step, device)
    on_device = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_device else [])
    with recorded(activities=activities) as found:
        for _ in range(steps):
            step()
        if on_device:
            torch.cuda.synchronize()

    def spent(event: Any) -> float:
        return float(event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e3 / steps

    events = sorted(found.key_averages(), key=spent, reverse=True)
    if on_device:
        events = [event for event in events if event.self_device_time_total and not event.self_cpu_time_total]
    busy = sum(spent(event) for event in events)
    rows = [
        {"kernel": event.key[:60], "calls": event.count / steps, "ms": spent(event), "share": spent(event) / ms}
        for event in events[:10]
    ]
    launches = sum(event.count for event in events) / steps
    figures = {"ms": ms, "busy_ms": busy, "idle_share": max(0.0, 1 - busy / ms), "launches": launches}
    return {"rows": rows, "figures": figures, "failed": []}
