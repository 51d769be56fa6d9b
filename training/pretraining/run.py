"""The first two stages: next-token training from random weights, then a bidirectional masked teacher from it.

Starting the teacher from a next-token model is how Dream was made (arXiv 2508.15487): the prediction of a position
stays in the state before it, so what was learned about sums and syntax carries over.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.batches.rows import Example, RowBatch, block_rows, frontier_rows, masked_rows, next_token_rows
from cdlm.training.batches.stream import ExampleStream, encode
from cdlm.training.config import OptimizationSection, RecipeConfig
from cdlm.training.data.mixture import draw_problems
from cdlm.training.descent.loop import workers_share
from cdlm.training.descent.optimizers import initialize
from cdlm.training.descent.parallel import barrier, rank
from cdlm.training.descent.stages import load_stage, train_stage
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
        examples = [
            *draw_problems("words", _VALIDATION_ROWS * 3 // 4, config.seed, "development"),
            *draw_problems("functions", _VALIDATION_ROWS // 4, config.seed, "development"),
        ]
        rng = random.Random(config.seed)
        encoded = encode(examples, self.tokenizer, rng)
        self.validation = self._rows(encoded, rng)
        self.frontier: RowBatch | None = None
        if stage == "teacher":
            block, mask_id = config.manifest.block_length, int(self.tokenizer.mask_token_id)
            self.frontier = frontier_rows(encoded * 4, mask_id=mask_id, block_length=block, rng=rng)

    def run(self) -> None:
        model = self.model, self.tokenizer, self._manifest()
        directory = self.directory / self.stage
        train_stage(directory, self.section, *model, self._batches, self._loss, self._measure)

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
        checkpoint, _ = load_stage(self.directory, "autoregressive")
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
