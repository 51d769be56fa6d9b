"""What the stages of the small recipe have in common: the stage before, the training, and the checkpoint it leaves."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import Manifest
from cdlm.model.loading.checkpoint import Checkpoint, load_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.config import OptimizationSection
from cdlm.training.descent.loop import Batch, Loop
from cdlm.training.descent.optimizers import make_optimizers
from cdlm.training.errors import TrainingError


def load_stage(directory: Path, stage: str) -> tuple[Checkpoint, PreTrainedTokenizerBase]:
    """Loads what a stage has left in ``directory/stage``, in fp32 on the CPU.

    Raises:
        TrainingError: it has left nothing yet.
    """
    source = directory / stage / "checkpoint"
    if not (source / "model.safetensors").exists():
        raise TrainingError(f"{source} is missing: run the {stage} stage first")
    return load_checkpoint(source), load_tokenizer(source)


def train_stage(
    directory: Path,
    section: OptimizationSection,
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    manifest: Manifest,
    batches: Callable[[int, int], Iterator[tuple[int, int, Batch]]],
    loss: Callable[[Batch], tuple[Tensor, dict[str, float]]],
    measure: Callable[[], dict[str, float]],
) -> None:
    """Trains all weights of ``model``, or resumes, and exports ``directory/checkpoint``; see ``Loop``."""
    model.train().requires_grad_(True)
    # The residual stream in bf16 halves the memory traffic that dominates small layers on a CPU.
    model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))
    leave = partial(export, directory / "checkpoint", model, tokenizer, manifest)
    optimizers = make_optimizers(model, section)
    Loop(directory, section, model, optimizers, batches=batches, loss=loss, measure=measure, export=leave).run()


def export(directory: Path, model: Transformer, tokenizer: PreTrainedTokenizerBase, manifest: Manifest) -> None:
    """Writes a checkpoint directory with its tokenizer."""
    save_checkpoint(directory, model, manifest, dtype=torch.bfloat16)
    tokenizer.save_pretrained(directory)
