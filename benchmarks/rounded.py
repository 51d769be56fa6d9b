"""Writes a checkpoint whose layers have the values of 4-bit weights, to measure the loss of accuracy.

    .venv/bin/python -m benchmarks.rounded model/assets/cdlm-nano runs/nano-int4 --group 32
    .venv/bin/cdlm eval --model runs/nano-int4 --task words --count 400 --seed 2026

The values are stored in fp32, since torchao has no 4-bit product for CPUs: only the rounding is measured.
"""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer


def main(
    source: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    target: Annotated[Path, typer.Argument(help="Directory to write.")],
    group: Annotated[int, typer.Option(help="Weights along a row that share a scale.")] = 32,
) -> None:
    """Rounds all linear layers except the LM head; does not change embedding, norms, manifest and tokenizer."""
    checkpoint = load_checkpoint(source)
    round_layers(checkpoint.transformer, group)
    save_checkpoint(target, checkpoint.transformer, checkpoint.manifest)
    for path in source.iterdir():
        if not (target / path.name).exists():
            shutil.copy(path, target)


def round_layers(transformer: Transformer, group: int) -> None:
    """Rounds the layers' weights [out, in] to symmetric int4, with one scale per ``group`` weights of a row."""
    four_bits = torch.int4  # type: ignore[attr-defined]
    quantize_(transformer.layers, IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=PerGroup(group)))
    for module in transformer.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(module.weight.dequantize(), requires_grad=False)


if __name__ == "__main__":
    typer.run(main)
