"""Milliseconds of one layer's mixture of experts, and how near that is to what the device could do."""

from typing import Any

import torch

from benchmarks.experts import MODELS, random_mixture, read_bytes, weights_per_token
from benchmarks.gpu.report import Budget, milliseconds
from benchmarks.gpu.speed import rates
from cdlm.cli.plan.presets import PRESETS
from cdlm.model.backbones import find_backbone
from cdlm.model.config import MixtureConfig
from cdlm.model.kernels.grouped import grouped_product
from cdlm.model.kernels.swiglu import swiglu

ROWS = (1, 16, 64)
TINY = MixtureConfig(experts=4, experts_per_token=2, width=32, shared_width=32)


@torch.inference_mode()
def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Rows: a model, blocks in a step, experts that their tokens chose, ms with our kernels and with PyTorch,
    our kernels' shares of the two floors: reading the chosen weights once, and the products."""
    bandwidth, products = rates(device, small=small)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    shapes = [("tiny", 64, TINY, 8)] if small else [_published(model) for model in MODELS]
    rows: list[dict[str, Any]] = []
    for name, hidden_size, config, block_length in shapes:
        mixture = random_mixture(hidden_size, config, device, dtype)
        for count in (1, 2) if small else ROWS:
            if budget.over:
                break
            x = torch.randn(count * block_length, hidden_size, device=device, dtype=dtype)
            used = len(mixture.router(x)[1].unique())
            ms = milliseconds(lambda x=x, own=mixture: own(x, grouped_product, swiglu), device)  # type: ignore[misc]
            flops = 2 * len(x) * weights_per_token(hidden_size, config)
            rows.append(
                {
                    "model": name,
                    "rows": count,
                    "experts": used,
                    "ms": ms,
                    "torch_ms": milliseconds(lambda x=x, own=mixture: own(x), device),  # type: ignore[misc]
                    "of_reading": read_bytes(mixture, used) / bandwidth * 1e3 / ms,
                    "of_products": flops / products * 1e3 / ms,
                }
            )
        del mixture
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {"rows": rows, "figures": {"bytes_per_s": bandwidth, "flops_per_s": products}, "failed": []}


def _published(model: str) -> tuple[str, int, MixtureConfig, int]:
    """Name, hidden size, mixture and block length."""
    shape, manifest = find_backbone(PRESETS[model]).read(PRESETS[model])
    assert shape.mixture is not None
    return model, shape.hidden_size, shape.mixture, manifest.block_length
