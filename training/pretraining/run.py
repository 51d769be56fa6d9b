"""The first two stages: next-token training from random weights, then a bidirectional masked teacher from it.

Starting the teacher from a next-token model is how Dream was made (arXiv 2508.15487): the prediction of a position
stays in the state before it, so what was learned about sums and syntax carries over.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import Manifest
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.batches.rows import Example, RowBatch, block_rows, frontier_rows, masked_rows, next_token_rows
from cdlm.training.batches.stream import ExampleStream, encode
from cdlm.training.config import OptimizationSection, RecipeConfig
from cdlm.training.data.mixture import draw_problems
from cdlm.training.descent.loop import Loop, workers_share
from cdlm.training.descent.optimizers import initialize, make_optimizers
from cdlm.training.descent.parallel import barrier, rank
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.objectives import token_loss
from cdlm.training.pretraining.tokenizer import train_tokenizer

Stage = Literal["autoregressive", "teacher"]
_VALIDATION_ROWS = 32


def run_autoregressive(config: RecipeConfig, directory: Path) -> None:
    """Trains or resumes the next-token model in ``directory/autoregressive``; a worker's entry point."""
    _Pretraining(config, directory, "autoregressive").run()


def run_teacher(config: RecipeConfig, directory: Path) -> None:
    """Trains or resumes the teacher in ``directory/teacher`` from ``directory/autoregressive``; a worker's entry point.

    Raises:
        TrainingError: the stage before is missing, or the loss is not finite.
    """
    _Pretraining(config, directory, "teacher").run()


class _Pretraining:
    def __init__(self, config: RecipeConfig, directory: Path, stage: Stage) -> None:
        self.config, self.directory, self.stage = config, directory, stage
        self.section: OptimizationSection = config.autoregressive if stage == "autoregressive" else config.teacher
        self.tokenizer = self._tokenizer()
        self.model = Transformer(config.transformer)
        self._first_weights()
        # The residual stream in bf16 halves the memory traffic that dominates small layers on a CPU.
        self.model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))
        examples = [
            *draw_problems("words", _VALIDATION_ROWS * 3 // 4, config.seed, "development"),
            *draw_problems("functions", _VALIDATION_ROWS // 4, config.seed, "development"),
        ]
        rng = random.Random(config.seed)
        encoded = encode(examples, self.tokenizer, rng)
        self.validation = self._rows(encoded, rng)
        self.frontier = self._frontier_rows(encoded * 4, rng) if stage == "teacher" else None
        self.loop = Loop(
            directory / stage,
            self.section,
            self.model,
            make_optimizers(self.model, self.section),
            batches=self._batches,
            loss=self._loss,
            measure=self._measure,
            export=partial(export, directory / stage / "checkpoint", self.model, self.tokenizer, self._manifest()),
        )

    def run(self) -> None:
        self.loop.run()

    def _rows(self, examples: list[Example], rng: random.Random, budget: float = float("inf")) -> RowBatch:
        if self.stage == "autoregressive":
            return self._next_token_rows(examples)
        return masked_rows(
            examples,
            mask_id=int(self.tokenizer.mask_token_id),
            end_id=int(self.tokenizer.eos_token_id),
            generation_length=self.config.teacher.generation_length,
            block_length=self.config.manifest.block_length,
            rng=rng,
            budget=budget,
        )

    def _next_token_rows(self, examples: list[Example]) -> RowBatch:
        return next_token_rows(examples, pad_id=int(self.tokenizer.pad_token_id))

    def _frontier_rows(self, examples: list[Example], rng: random.Random) -> RowBatch:
        return frontier_rows(
            examples,
            mask_id=int(self.tokenizer.mask_token_id),
            block_length=self.config.manifest.block_length,
            rng=rng,
        )

    def _batches(self, pool: int, skip: int) -> Iterator[tuple[int, int, RowBatch]]:
        # Every worker draws its own problems: nothing is generated twice, and nobody waits for the other.
        seed = f"{self.config.seed}/{self.stage}/{rank()}"
        budget = workers_share(self.section.tokens_per_batch)
        stream = ExampleStream(seed, dict(self.config.mixture), self.tokenizer, budget=budget)
        for number, index, examples in stream.groups(pool, skip):
            rng = random.Random(f"masks/{seed}/{number}/{index}")
            yield number, index, self._draw_rows(examples, budget, rng)

    def _draw_rows(self, examples: list[Example], budget: int, rng: random.Random) -> RowBatch:
        """Draws rows of a random kind, with fewer examples if canvas or copies make their rows longer."""
        if self.stage == "autoregressive":
            return self._next_token_rows(examples)
        section, draw = self.config.teacher, rng.random()
        if draw < section.rehearsal:
            return self._next_token_rows(examples)
        if draw < section.rehearsal + section.blockwise:
            block = self.config.manifest.block_length
            longest = max(len(e.prompt) + (1 + section.copies) * (len(e.answer) + block - 1) for e in examples)
            return block_rows(
                examples[: max(1, budget // longest)],
                mask_id=int(self.tokenizer.mask_token_id),
                end_id=int(self.tokenizer.eos_token_id),
                block_length=block,
                copies=section.copies,
                rng=rng,
            )
        return self._rows(examples, rng, budget)

    def _loss(self, batch: RowBatch) -> tuple[Tensor, dict[str, float]]:
        loss, accuracy = token_loss(self.model, batch, shift=True)
        return loss, {"accuracy": float(accuracy)}

    def _measure(self) -> dict[str, float]:
        loss, accuracy = token_loss(self.model, self.validation, shift=True)
        figures = {"development_loss": float(loss), "development_accuracy": float(accuracy)}
        if self.frontier is not None:
            _, accuracy = token_loss(self.model, self.frontier, shift=True)
            figures["frontier_accuracy"] = float(accuracy)
        return figures

    def _manifest(self) -> Manifest:
        """The manifest of the stage's model: block length 1 for the next-token model, blocks for the teacher."""
        masked = Manifest(
            **self.config.manifest.model_dump(),
            mask_token_id=int(self.tokenizer.mask_token_id),
            stop_token_ids=(int(self.tokenizer.eos_token_id),),
            shift=True,
        )
        if self.stage == "teacher":
            return replace(masked, bidirectional=True)
        return replace(
            masked, block_length=1, block_origin="absolute", prompt_attention="causal", first_token="autoregressive"
        )

    def _first_weights(self) -> None:
        if self.stage == "autoregressive":
            initialize(self.model, self.config.seed)
            return
        source = self.directory / "autoregressive" / "checkpoint"
        if not (source / "model.safetensors").exists():
            raise TrainingError(f"{source} is missing: run the autoregressive stage first")
        checkpoint = load_checkpoint(source, device=torch.device("cpu"), dtype=torch.float32)
        self.model.load_state_dict(checkpoint.transformer.state_dict())

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        directory = self.directory / "tokenizer"
        if rank() == 0 and not (directory / "tokenizer.json").exists():
            train_tokenizer(
                directory,
                vocab_size=self.config.tokenizer.vocab_size,
                samples=self.config.tokenizer.samples,
                seed=self.config.seed,
                weights=dict(self.config.mixture),
                max_length=self.config.manifest.max_model_len,
            )
        barrier()
        return load_tokenizer(directory)


def export(directory: Path, model: Transformer, tokenizer: PreTrainedTokenizerBase, manifest: Manifest) -> None:
    """Writes a checkpoint directory with its tokenizer."""
    save_checkpoint(directory, model, manifest, dtype=torch.bfloat16)
    tokenizer.save_pretrained(directory)
