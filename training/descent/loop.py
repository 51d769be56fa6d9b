"""The optimisation loop of every stage: steps, checkpoints, log, and a clear stop on a loss that is not a number."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cdlm.training.config import DescentSection
from cdlm.training.descent.checkpoint import load_state, save_state
from cdlm.training.descent.log import StepLog
from cdlm.training.descent.optimizers import learning_rate_factor
from cdlm.training.descent.parallel import average_gradients, barrier, rank, world_size
from cdlm.training.errors import TrainingError

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


@dataclass(slots=True)
class Progress:
    """Where a run stands: steps done, the next batch, and seconds spent training."""

    step: int = 0
    pool: int = 0
    index: int = 0
    seconds: float = 0.0


class Loop(Generic[Batch]):
    """A resumable descent in ``directory``: ``state.safetensors``, ``log.jsonl`` and ``loss.png`` live there.

    Args:
        batches: from (pool, groups to skip) to this worker's batches with their (pool, index).
        loss: the loss of a batch and figures to log; called under bfloat16 autocast.
        measure: figures on fixed data, logged beside the loss.
        export: writes what the stage is for, after every saved state.
    """

    def __init__(
        self,
        directory: Path,
        section: DescentSection,
        model: nn.Module,
        optimizers: list[Optimizer],
        *,
        batches: Callable[[int, int], Iterator[tuple[int, int, Batch]]],
        loss: Callable[[Batch], tuple[Tensor, dict[str, float]]],
        measure: Callable[[], dict[str, float]],
        export: Callable[[], None],
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.section, self.model, self.optimizers = directory, section, model, optimizers
        self.base_rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
        self._batches, self._loss, self._measure, self._export = batches, loss, measure, export
        self.progress = Progress()
        if self.state_path.exists():
            self.progress = Progress(**load_state(self.state_path, model, optimizers))
            logger.info("%s: resumed at step %d", directory.name, self.progress.step)
        self.log = StepLog(directory, self.progress.step) if rank() == 0 else None

    @property
    def state_path(self) -> Path:
        """Weights, moments and counters of the newest step saved."""
        return self.directory / "state.safetensors"

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.progress.step >= self.section.steps

    def run(self) -> None:
        """Trains to the configured number of steps.

        Raises:
            TrainingError: the loss is not finite.
        """
        silent = None if rank() == 0 else True
        bar = tqdm(
            total=self.section.steps, initial=self.progress.step, desc=self.directory.name, unit="step", disable=silent
        )
        with bar, logging_redirect_tqdm():
            self._run(bar)

    def _run(self, bar: "tqdm[None]") -> None:
        log = self.log
        batches = self._batches(self.progress.pool, self.progress.index)
        while not self.done:
            started = time.monotonic()
            pool, index, batch = next(batches)
            figures = self._step(batch)
            progress = self.progress
            progress.step, progress.pool, progress.index = progress.step + 1, pool, index + 1
            progress.seconds += time.monotonic() - started
            bar.update()
            if log is not None:
                log.add(figures)
                if progress.step % self.section.log_every == 0:
                    log.write(progress.step, progress.seconds, self._measure())
            if progress.step % self.section.checkpoint_every == 0 or self.done:
                if rank() == 0:
                    self.save()
                barrier()

    def _step(self, batch: Batch) -> dict[str, float]:
        factor = learning_rate_factor(self.progress.step, self.section)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, figures = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            kept = f"the last good state is {self.state_path}" if self.state_path.exists() else "nothing was saved yet"
            raise TrainingError(f"{self.directory.name}: loss is {value} at step {self.progress.step}; {kept}")
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.section.gradient_clip)
        if not math.isfinite(float(norm)):
            raise TrainingError(f"{self.directory.name}: the gradient is {float(norm)} at step {self.progress.step}")
        for optimizer in self.optimizers:
            optimizer.step()
        return {"loss": value, **figures}

    def save(self) -> None:
        """Saves the state, exports, and draws the curves."""
        save_state(self.state_path, self.model, self.optimizers, asdict(self.progress))
        self._export()
        if self.log is not None:
            self.log.draw()


def workers_share(tokens: int) -> int:
    """This worker's part of a budget of tokens."""
    return tokens // world_size()
