"""Trains the task adapter: cross-entropy on tasks, KL divergence to the base model on chat."""

import logging
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.lora import compile_layers, without_adapter
from cdlm.training.backbone.next_token import NextTokenAdapter
from cdlm.training.batches.rows import Example, RowBatch, next_token_rows
from cdlm.training.natural.config import TaskAdapterConfig
from cdlm.training.natural.mixture import TaskBatch, TaskStream

logger = logging.getLogger(__name__)
_MEASURED = 4  # Kept chat answers whose divergence is logged.


def train_task_adapter(config: TaskAdapterConfig, directory: Path) -> None:
    """Trains or resumes the adapter in ``directory`` and writes ``directory/adapter``, a PEFT directory in bfloat16.

    Raises:
        CheckpointError: the base, its tokenizer or the adapter to start from cannot be loaded.
        TrainingError: a file of the configuration gives no rows, the base is not a next-token model, or the loss or
            the gradient is not finite.
    """
    adapter, tokenizer = NextTokenAdapter(config), load_tokenizer(config.model)
    stream = TaskStream(config, directory, tokenizer)
    logger.info("%s, %d of chat", _sizes(stream), len(stream.chat))
    if config.optimization.compile:
        compile_layers(adapter.transformer)
    objective = TaskObjective(adapter.transformer, pad_id=int(tokenizer.eos_token_id), divergence=config.divergence)
    kept = stream.formatter.encode(stream.kept_chat[:_MEASURED], random.Random(0))
    decoding = AdapterDecoding(adapter.manifest.block_length, adapter.manifest.confidence_threshold)
    adapter.train(directory, stream.batches, objective, lambda: objective.measure(kept), decoding)


class TaskObjective:
    """Mean cross-entropy of the task rows plus ``divergence`` times KL(base || adapted) on the chat rows.

    Args:
        transformer: a next-token model with one adapter.
        pad_id: id of padding.
        divergence: weight of the KL term.
    """

    def __init__(self, transformer: Transformer, *, pad_id: int, divergence: float) -> None:
        self.transformer, self.pad_id, self.divergence = transformer, pad_id, divergence
        self._newest = 0.0

    def __call__(self, batch: TaskBatch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss, an fp32 scalar, and its two parts; without chat, the KL term is the last one computed."""
        divergence = self._divergence(batch.chat) if batch.chat else None
        sums, counts, right = [], 0, 0
        for examples in batch.tasks:
            rows = next_token_rows(examples, pad_id=self.pad_id)
            logits, targets = self._logits(rows).float(), rows.targets[rows.targets >= 0]
            sums.append(cross_entropy(logits, targets, reduction="sum"))
            counts += len(targets)
            right += int((logits.detach().argmax(-1) == targets).sum())
        tasks = torch.stack(sums).sum() / counts
        loss = tasks
        if divergence is not None:
            loss, self._newest = tasks + self.divergence * divergence, float(divergence.detach())
        return loss, {"tasks": float(tasks.detach()), "accuracy": right / counts, "divergence": self._newest}

    def measure(self, kept: list[Example]) -> dict[str, float]:
        """KL(base || adapted) in nats per token, on the held-out chat answers ``kept``."""
        return {"kept_divergence": float(self._divergence(kept))}

    def _divergence(self, examples: list[Example]) -> Tensor:
        rows = next_token_rows(examples, pad_id=self.pad_id)
        with torch.no_grad(), without_adapter(self.transformer):
            base = self._logits(rows).float().log_softmax(-1)
        return kl_div(self._logits(rows).float().log_softmax(-1), base, log_target=True, reduction="batchmean")

    def _logits(self, rows: RowBatch) -> Tensor:
        """Logits of the asked positions, [asked, vocab], in row-major order."""
        hidden = self.transformer(rows.token_ids, rows.positions, rows.attention)
        return self.transformer.logits(hidden[:, :-1][rows.targets[:, 1:] >= 0])


def _sizes(stream: TaskStream) -> str:
    return ", ".join(f"{len(rows)} of {name}" for name, rows in (stream.fixed | stream.drawn).items())
