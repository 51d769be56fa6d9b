"""The model runner against the slow decoder, token for token, on tiny checkpoints of every kind."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.gpu.decoder import decode
from benchmarks.gpu.report import Budget
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.runner import ModelRunner
from tests.support.models.checkpoints import AXES, build_checkpoint
from tests.support.oracle.decoder import decode as decode_slowly

BACKENDS = ("sdpa", "triton")
PAGE, PAGES = 16, 16


def run(device: torch.device, *, small: bool, budget: Budget) -> dict[str, Any]:
    """Rows: axis, backend, dtype, share of tokens that are the slow decoder's. In fp32 all must be."""
    rows = []
    for axis in list(AXES)[: 2 if small else None]:
        if budget.over:
            break
        with tempfile.TemporaryDirectory() as directory:
            shape = {"num_layers": 1, "block_length": 4} if small else {}
            path = build_checkpoint(Path(directory), axis, seed=5, **shape)
            prompts = [[5, 9, 2, 40, 11, 7], [3] * 13, [8, 1, 60]][: 1 if small else None]
            wanted = 6 if small else 40
            expected = [_slowly(path, prompt, wanted) for prompt in prompts]
            for dtype in (torch.float32,) if small else (torch.float32, torch.bfloat16, torch.float16):
                rows += [_compared(path, axis, backend, dtype, device, prompts, expected) for backend in BACKENDS]
    failed = [f"{row['axis']} {row['backend']}" for row in rows if row["dtype"] == "float32" and row["agreement"] < 1]
    return {"rows": rows, "failed": failed}


def _slowly(path: Path, prompt: list[int], wanted: int) -> list[int]:
    loaded = load_checkpoint(path)
    weights = {name: tensor.float() for name, tensor in load_file(path / "model.safetensors").items()}
    shape = loaded.transformer.config
    return decode_slowly(weights, shape, loaded.manifest, prompt, wanted, ignore_eos=True).token_ids


def _compared(
    path: Path,
    axis: str,
    backend: Any,
    dtype: torch.dtype,
    device: torch.device,
    prompts: list[list[int]],
    expected: list[list[int]],
) -> dict[str, Any]:
    checkpoint = load_checkpoint(path, device=device, dtype=dtype)
    runner = ModelRunner(
        checkpoint, num_pages=len(prompts) * PAGES, page_size=PAGE, max_rows=len(prompts), attention_backend=backend
    )
    rows = decode(runner, prompts, len(expected[0]), PAGES)
    same = total = 0
    for row, answer in zip(rows, expected, strict=True):
        found = row.tokens[row.prompt_length :][: len(answer)]
        same += sum(mine == theirs for mine, theirs in zip(found, answer, strict=True))
        total += len(answer)
    return {"axis": axis, "backend": backend, "dtype": str(dtype)[6:], "agreement": same / total}
