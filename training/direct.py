"""Direct training of a student: the masked objective under the block-causal mask, from random weights."""

import json
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedTokenizerBase

from model.config import Manifest
from model.export import save_checkpoint
from model.tokenizer import load_tokenizer
from model.transformer import Transformer
from training.attention import BlockDiffusionAttention
from training.checkpoint import load_state, save_state
from training.config import DirectConfig
from training.data.mixture import held_out
from training.parallel import average_gradients, barrier, rank, world_size
from training.rows import RowBatch, collate
from training.stream import BatchStream
from training.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; earlier checkpoints are intact."""


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps done, the next batch, and seconds spent training."""

    step: int = 0
    pool: int = 0
    index: int = 0
    seconds: float = 0.0


def learning_rate_factor(step: int, config: DirectConfig) -> float:
    """Warm up, stay, decay linearly to zero (warmup-stable-decay)."""
    decay_steps = max(1, round(config.steps * config.decay_fraction))
    return max(0.0, min(1.0, (step + 1) / config.warmup_steps, (config.steps - step) / decay_steps))


def masked_loss(model: Transformer, batch: RowBatch, block_length: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over masked positions, and the share of them predicted right (detached)."""
    attention = BlockDiffusionAttention(batch.context_mask, batch.noisy_mask, block_length)
    hidden = model(batch.token_ids, batch.positions, attention)
    chosen = batch.targets >= 0
    logits = model.logits(hidden[chosen]).float()  # [masked, vocab]
    targets = batch.targets[chosen]
    accuracy = (logits.detach().argmax(-1) == targets).float().mean()
    return cross_entropy(logits, targets), accuracy


def make_optimizers(model: Transformer, config: DirectConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for the embedding and the vectors."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=config.embedding_learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def initialise(model: Transformer, seed: int) -> None:
    """Normal weights of deviation 0.02, residual outputs smaller with depth (GPT-2's scheme)."""
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * model.config.num_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            narrow = depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=0.02 * narrow, generator=generator)


class DirectTraining:
    """A resumable run in ``directory``: tokenizer, state, log and the exported checkpoint live there."""

    def __init__(self, config: DirectConfig, directory: Path) -> None:
        self.config, self.directory = config, directory
        directory.mkdir(parents=True, exist_ok=True)
        if rank() == 0:
            self._tokenizer()
        barrier()
        self.tokenizer = self._tokenizer()
        self.model = Transformer(config.transformer)
        initialise(self.model, config.seed)
        # The residual stream in bf16 halves the memory traffic that dominates small layers on a CPU.
        self.model.embed_tokens.register_forward_hook(lambda _module, _inputs, output: output.to(torch.bfloat16))
        self.optimizers = make_optimizers(self.model, config)
        self.stream = BatchStream(config, self.tokenizer, rank=rank(), world_size=world_size())
        self.progress = Progress()
        if self.state_path.exists():
            self.progress = Progress(**load_state(self.state_path, self.model, self.optimizers))
            logger.info("resumed %s at step %d", self.state_path, self.progress.step)
        self.base_rates = [config.learning_rate, config.embedding_learning_rate]
        self.validation = self._validation_batch()

    @property
    def state_path(self) -> Path:
        """Weights, moments and counters of the newest step saved."""
        return self.directory / "state.safetensors"

    @property
    def export_path(self) -> Path:
        """The servable checkpoint directory."""
        return self.directory / "checkpoint"

    def run(self) -> None:
        """Trains to the configured number of steps and exports the checkpoint.

        Raises:
            TrainingError: the loss is not finite.
        """
        bar = tqdm(
            total=self.config.steps, initial=self.progress.step, unit="step", disable=None if rank() == 0 else True
        )
        with bar, logging_redirect_tqdm():
            self._loop(bar)

    def _loop(self, bar: "tqdm[None]") -> None:
        losses: list[float] = []
        batches = self.stream.batches(self.progress.pool, self.progress.index)
        while self.progress.step < self.config.steps:
            started = time.monotonic()
            pool, index, batch = next(batches)
            loss = self._step(batch)
            losses.append(loss)
            self.progress.step += 1
            self.progress.pool, self.progress.index = pool, index + 1
            self.progress.seconds += time.monotonic() - started
            bar.update()
            if rank() == 0 and self.progress.step % self.config.log_every == 0:
                speed = batch.tokens * world_size() / (time.monotonic() - started)
                self._log(sum(losses) / len(losses), speed)
                losses.clear()
            if self.progress.step % self.config.checkpoint_every == 0 or self.progress.step == self.config.steps:
                if rank() == 0:
                    self.save()
                barrier()

    def _step(self, batch: RowBatch) -> float:
        factor = learning_rate_factor(self.progress.step, self.config)
        for optimizer, base in zip(self.optimizers, self.base_rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = base * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = masked_loss(self.model, batch, self.config.manifest.block_length)
        value = float(loss.detach())
        if value != value or value == float("inf"):
            raise TrainingError(f"loss is {value} at step {self.progress.step}; last good state: {self.state_path}")
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return value

    def save(self) -> None:
        """Saves the state and exports the weights as a servable checkpoint."""
        counters = {"step": self.progress.step, "pool": self.progress.pool}
        counters |= {"index": self.progress.index}
        save_state(self.state_path, self.model, self.optimizers, {**counters, "seconds": self.progress.seconds})
        manifest = Manifest(
            **self.config.manifest.model_dump(),
            mask_token_id=self.stream.mask_id,
            stop_token_ids=(self.stream.eos_id,),
        )
        save_checkpoint(self.export_path, self.model, manifest, dtype=torch.bfloat16)
        self.tokenizer.save_pretrained(self.export_path)

    def _log(self, loss: float, tokens_per_second: float) -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            held_loss, held_accuracy = masked_loss(self.model, self.validation, self.config.manifest.block_length)
        entry = {
            "step": self.progress.step,
            "loss": round(loss, 4),
            "held_out_loss": round(float(held_loss), 4),
            "held_out_accuracy": round(float(held_accuracy), 4),
            "tokens_per_second": round(tokens_per_second),
            "seconds": round(self.progress.seconds),
        }
        logger.info(" ".join(f"{key} {value}" for key, value in entry.items()))
        with (self.directory / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        directory = self.directory / "tokenizer"
        if (directory / "tokenizer.json").exists():
            return load_tokenizer(directory)
        return train_tokenizer(
            directory,
            vocab_size=self.config.tokenizer.vocab_size,
            samples=self.config.tokenizer.samples,
            seed=self.config.seed,
            weights=dict(self.config.mixture),
            max_length=self.config.manifest.max_model_len,
        )

    def _validation_batch(self) -> RowBatch:
        problems = held_out("words", 24, seed=self.config.seed) + held_out("functions", 12, seed=self.config.seed)
        rng = random.Random(self.config.seed)
        examples = [self.stream.example(problem, rng) for problem in problems]
        return collate(
            examples,
            block_length=self.config.manifest.block_length,
            mask_id=self.stream.mask_id,
            pad_id=self.stream.pad_id,
            rng=rng,
        )


def run_direct(config: DirectConfig, directory: Path) -> None:
    """Trains or resumes one run; the entry point of a worker process."""
    DirectTraining(config, directory).run()
