"""Trains an adapter on a teacher's trajectories: one process or many, replicated or sharded, with accelerate."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from cdlm.model.backbones import find_backbone
from cdlm.model.config import Manifest
from cdlm.model.files import read_json
from cdlm.model.gguf.directory import checkpoint_directory
from cdlm.model.loading.adapter import write_adapter
from cdlm.model.loading.adapter_config import AdapterDecoding
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.accelerator import make_accelerator
from cdlm.training.backbone.config import AdapterConfig
from cdlm.training.backbone.lora import (
    adapter_weights,
    add_adapter,
    check_names,
    checkpoint_gradients,
    trainable,
    whole,
)
from cdlm.training.backbone.state import load_adapter_state, save_adapter_state
from cdlm.training.descent.loop import Descent
from cdlm.training.errors import TrainingError
from cdlm.training.student.objective import AskedLogits, StudentObjective
from cdlm.training.student.stream import StudentStream
from cdlm.training.trajectories.store import TrajectoryStore, tokenizer_fingerprint

logger = logging.getLogger(__name__)


def train_adapter(config: AdapterConfig, directory: Path) -> None:
    """Trains or resumes an adapter on ``directory/trajectories`` and writes ``directory/adapter``.

    The adapter is a PEFT directory that serves over the base. Processes started by ``torchrun`` or ``accelerate
    launch`` share the work; with ``fsdp`` they also share the weights. A resumed run continues with the same batches if
    it has as many processes as before.

    Raises:
        CheckpointError: the base or its tokenizer cannot be loaded.
        TrainingError: the trajectories are missing or do not fit, the batch does not divide, or the loss or the
            gradient is not finite.
    """
    _AdapterTraining(config, directory).run()


class _AdapterTraining(Descent):
    def __init__(self, config: AdapterConfig, directory: Path) -> None:
        self.config, self.section = config, config.optimization
        self.accelerator = make_accelerator(self.section)
        super().__init__(directory, self.section, leads=self.accelerator.is_main_process)
        per_round = self.section.rows_per_forward * self.accelerator.num_processes
        if self.section.batch_size % per_round:
            raise TrainingError(
                f"batch_size {self.section.batch_size} is not a multiple of {per_round}: "
                f"{self.section.rows_per_forward} rows_per_forward in {self.accelerator.num_processes} processes"
            )
        self.rounds = self.section.batch_size // per_round
        self.backbone = find_backbone(read_json(checkpoint_directory(config.model), "config.json"))
        checkpoint = load_checkpoint(
            config.model,
            # Sharding moves the weights layer by layer: the device never holds all of them.
            device=torch.device("cpu") if self.section.fsdp else self.accelerator.device,
            dtype=torch.float32 if self.section.mixed_precision == "no" else torch.bfloat16,
            block_length=config.block_length,
        )
        self.transformer = checkpoint.transformer
        self.stream = self._stream(checkpoint.manifest)
        self._prepare(shift=checkpoint.manifest.shift)
        self.resume()

    def begin(self) -> None:
        self.batches = self.stream.batches(self.progress.pool, self.progress.index)

    def measure(self) -> dict[str, float]:
        return {}

    def load(self) -> dict[str, Any]:
        return load_adapter_state(self.state_path, self.parameters, self.optimizer.optimizer)

    def step(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.section.learning_rate * self._rate_factor()
        self.optimizer.zero_grad()
        total: dict[str, float] = {}
        for _ in range(self.rounds):
            epoch, index, batch = next(self.batches)
            with self.accelerator.autocast():
                loss, figures = self.objective(batch.to(self.accelerator.device))
            for name, figure in self._means({"loss": float(loss.detach()), **figures}).items():
                total[name] = total.get(name, 0.0) + figure / self.rounds
            self.require_finite("loss", total["loss"])
            self.accelerator.backward(loss / self.rounds)
            self.progress.pool, self.progress.index = epoch, index + 1
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.section.gradient_clip)
        self.require_finite("gradient", float(whole(norm)))
        self.optimizer.step()
        return total

    def _means(self, figures: dict[str, float]) -> dict[str, float]:
        """Averages figures over all processes: if one loss is not finite, all processes stop together."""
        values = torch.tensor(list(figures.values()), device=self.accelerator.device)
        means = self.accelerator.reduce(values, reduction="mean").tolist()
        return dict(zip(figures, means, strict=True))

    def _rate_factor(self) -> float:
        step, section = self.progress.step, self.section
        rise = (step + 1) / section.warmup_steps if section.warmup_steps else 1.0
        return min(1.0, rise, (section.steps - step) / max(1, section.steps - section.warmup_steps))

    def save(self) -> None:
        weights = adapter_weights(self.transformer)
        save_adapter_state(
            self.state_path, self.parameters, self.optimizer.optimizer, asdict(self.progress), write=self.leads
        )
        if self.log is not None:
            self.log.draw()
            write_adapter(
                self.directory / "adapter",
                weights,
                backbone=self.backbone,
                r=self.config.lora.r,
                alpha=self.config.lora.alpha,
                base=str(self.config.model),
                decoding=AdapterDecoding(self.config.block_length, self.config.confidence_threshold),
            )
        self.accelerator.wait_for_everyone()

    def _prepare(self, *, shift: bool) -> None:
        """Prepares adapter, optimizer and objective for distributed training."""
        head = self.transformer.lm_head.weight.to(self.accelerator.device, copy=True)  # Sharding takes the original.
        torch.manual_seed(self.config.seed)
        add_adapter(self.transformer, self.config.lora)
        check_names(self.transformer, self.backbone)
        if self.section.gradient_checkpointing:
            checkpoint_gradients(self.transformer)
        optimizer = torch.optim.AdamW(
            trainable(self.transformer).values(), lr=self.section.learning_rate, weight_decay=self.section.weight_decay
        )
        student, self.optimizer = self.accelerator.prepare(AskedLogits(self.transformer, shift=shift), optimizer)
        self.objective = StudentObjective(student, head, self.config.losses)
        self.parameters = trainable(self.transformer)
        weights = list(self.transformer.parameters())
        held = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in weights)
        count, train = (sum(p.numel() for p in group) for group in (weights, self.parameters.values()))
        logger.info("%d of %d weights train, a process holds %d", train, count, held)

    def _stream(self, manifest: Manifest) -> StudentStream:
        config = self.config
        store = TrajectoryStore.open(
            self.directory / "trajectories",
            tokenizer_fingerprint=tokenizer_fingerprint(load_tokenizer(config.model)),
            block_length=config.block_length,
            hidden_size=self.transformer.config.hidden_size,
        )
        return StudentStream(
            store,
            seed=f"{config.seed}/adapter",
            mask_id=manifest.mask_token_id,
            end_id=manifest.stop_token_ids[0],
            block_length=config.block_length,
            max_rows=self.section.rows_per_forward,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
