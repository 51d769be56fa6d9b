"""A block-causal student trained on whole texts, without a teacher: the recipe of BD3-LM (arXiv 2503.09573)."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.packed import AskedRows
from cdlm.training.batches.rows import Example
from cdlm.training.batches.stream import ExampleStream, encode
from cdlm.training.batches.two_streams import masked_answers
from cdlm.training.config import RecipeConfig, TextSection
from cdlm.training.data.mixture import draw_problems
from cdlm.training.descent.loop import workers_share
from cdlm.training.descent.parallel import rank
from cdlm.training.descent.stages import load_stage, train_stage
from cdlm.training.errors import TrainingError
from cdlm.training.student.losses import masked_likelihood
from cdlm.training.student.objective import AskedLogits

_VALIDATION_ROWS = 16


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Two-stream rows, the masked ids, and their weights for ``masked_likelihood``."""

    rows: AskedRows
    targets: Tensor
    weights: Tensor


def run_text_student(config: RecipeConfig, directory: Path) -> None:
    """Trains or resumes the student in ``directory/text-student`` from ``directory/autoregressive``; a worker's entry
    point.

    ``directory/text-student/checkpoint`` can be served. Its blocks count from position 0 and prompts are block-causal,
    since prompts were parts of the texts.

    Raises:
        TrainingError: the configuration has no such stage, the stage before is missing, or the loss is not finite.
    """
    section = config.texts
    if section is None:
        raise TrainingError("the configuration has no [texts]")
    begin, tokenizer = load_stage(directory, "autoregressive")
    manifest = replace(
        begin.manifest,
        block_length=config.manifest.block_length,
        confidence_threshold=config.manifest.confidence_threshold,
        prompt_attention="block_causal",
        first_token="masked",
    )
    objective = TextObjective(begin.transformer, manifest, section, tokenizer, str(config.seed))
    problems = draw_problems("words", _VALIDATION_ROWS, config.seed, "development")
    kept = objective.mask(encode(problems, tokenizer, random.Random(config.seed)), "development")

    def measure() -> dict[str, float]:
        loss, figures = objective(kept)
        return {"development_loss": float(loss), "development_accuracy": figures["accuracy"]}

    model, batches = begin.transformer, partial(objective.batches, config)
    train_stage(directory / "text-student", section, model, tokenizer, manifest, batches, objective, measure)


class TextObjective:
    """Masked likelihood of whole texts, each block after clean blocks, weighted 1/t; and the batches it is taken on."""

    def __init__(
        self,
        model: Transformer,
        manifest: Manifest,
        section: TextSection,
        tokenizer: PreTrainedTokenizerBase,
        seed: str,
    ) -> None:
        self.manifest, self.section, self.tokenizer, self.seed = manifest, section, tokenizer, seed
        self.student = AskedLogits(model, shift=manifest.shift)

    def __call__(self, batch: TextBatch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss, an fp32 scalar, and the share of masked tokens that are right."""
        rows = batch.rows
        logits = self.student(rows.token_ids, rows.positions, rows.previous, rows.mask, rows.asked)
        accuracy = (logits.detach().argmax(-1) == batch.targets).float().mean()
        return masked_likelihood(logits, batch.targets, batch.weights), {"accuracy": float(accuracy)}

    def batches(self, config: RecipeConfig, pool: int, skip: int) -> Iterator[tuple[int, int, TextBatch]]:
        """Yields (pool, index in the pool, batch), starting after ``skip`` batches of ``pool``."""
        # A row holds its text twice. Every worker draws its own problems.
        budget = workers_share(self.section.tokens_per_batch) // 2
        stream = ExampleStream(f"{self.seed}/texts/{rank()}", dict(config.mixture), self.tokenizer, budget=budget)
        for number, index, examples in stream.groups(pool, skip):
            longest = max(example.length for example in examples) + self.manifest.block_length - 1
            yield number, index, self.mask(examples[: max(1, budget // longest)], f"{stream.seed}/{number}/{index}")

    def mask(self, examples: list[Example], seed: str) -> TextBatch:
        """Masks prompt and answer of ``examples``, each pair a text; the same masks for the same ``seed``."""
        rows = masked_answers(
            [([], example.prompt + example.answer) for example in examples],
            mask_id=self.manifest.mask_token_id,
            end_id=self.manifest.stop_token_ids[0],
            block_length=self.manifest.block_length,
            rng=random.Random(f"masks/{seed}"),
            ratios=self.section.ratios,
            spared=int(self.manifest.shift),
        )
        return TextBatch(*rows)
