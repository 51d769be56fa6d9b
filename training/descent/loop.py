"""The training loop of all stages: steps, saved states, log; it stops if the loss is not finite."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cdlm.training.config import DescentSection, StepsSection
from cdlm.training.descent.checkpoint import load_state, save_state
from cdlm.training.descent.log import StepLog
from cdlm.training.descent.optimizers import learning_rate_factor
from cdlm.training.descent.parallel import average_gradients, barrier, rank, world_size
from cdlm.training.errors import TrainingError

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


@dataclass(slots=True)
class Progress:
    """Progress of a run: steps done, the next batch, and seconds spent in training."""

    step: int = 0
    pool: int = 0
    index: int = 0
    seconds: float = 0.0


class Descent(ABC):
    """A resumable training; writes ``state.safetensors``, ``log.jsonl`` and ``loss.png`` to ``directory``.

    Subclasses define a step, and call ``resume`` once their model exists. ``leads`` is true in the one process that
    shows the progress bar and writes the log.
    """

    log: StepLog | None = None

    def __init__(self, directory: Path, section: StepsSection, *, leads: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.pace, self.leads, self.progress = directory, section, leads, Progress()

    @property
    def state_path(self) -> Path:
        """The file of the last saved state: weights, moments and counters."""
        return self.directory / "state.safetensors"

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.progress.step >= self.pace.steps

    def resume(self) -> None:
        """Continues from the saved state, if there is one."""
        if self.state_path.exists():
            self.progress = Progress(**self.load())
            logger.info("%s: resumed at step %d", self.directory.name, self.progress.step)
        self.log = StepLog(self.directory, self.progress.step) if self.leads else None

    def run(self) -> None:
        """Trains to the configured number of steps.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        pace, progress = self.pace, self.progress
        bar = tqdm(
            total=pace.steps, initial=progress.step, desc=self.directory.name, unit="step",
            disable=None if self.leads else True,
        )  # fmt: skip
        with bar, logging_redirect_tqdm():
            self.begin()
            while not self.done:
                started = time.monotonic()
                figures = self.step()
                progress.step += 1
                progress.seconds += time.monotonic() - started
                bar.update()
                if self.log is not None:
                    self.log.add(figures)
                    if progress.step % pace.log_every == 0:
                        self.log.write(progress.step, progress.seconds, self.measure())
                if progress.step % pace.checkpoint_every == 0 or self.done:
                    self.save()

    def require_finite(self, what: str, value: float) -> None:
        """Raises ``TrainingError`` unless ``value`` is finite."""
        if not math.isfinite(value):
            kept = f"the last good state is {self.state_path}" if self.state_path.exists() else "nothing was saved yet"
            raise TrainingError(f"{self.directory.name}: the {what} is {value} at step {self.progress.step}; {kept}")

    @abstractmethod
    def begin(self) -> None:
        """Opens the stream of batches after those in ``progress``."""

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Takes one step, moves ``progress`` to the next batch, and returns figures to log."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Computes figures on fixed data, logged beside those of the steps."""

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Restores the saved state and returns the counters."""

    @abstractmethod
    def save(self) -> None:
        """Saves the state and exports the result; all processes call it."""


class Loop(Descent, Generic[Batch]):
    """The training of a stage on CPU processes.

    Args:
        batches: (pool, groups to skip) -> this worker's batches, as (pool, index, batch).
        loss: batch -> its loss and figures to log.
        measure: figures on fixed data, logged beside the loss; called without gradients.
        export: writes the stage's result, after each saved state.
        autocast: call ``loss`` and ``measure`` under bfloat16 autocast.
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
        autocast: bool = True,
    ) -> None:
        super().__init__(directory, section, leads=rank() == 0)
        self.section, self.model, self.optimizers = section, model, optimizers
        self.base_rates = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
        self._batches, self._loss, self._measure, self._export = batches, loss, measure, export
        self._autocast = partial(torch.autocast, "cpu", torch.bfloat16, autocast)
        self._coming: Iterator[tuple[int, int, Batch]] = iter(())
        self.resume()

    def begin(self) -> None:
        """Opens the stream of batches after those in ``progress``."""
        self._coming = self._batches(self.progress.pool, self.progress.index)

    def step(self) -> dict[str, float]:
        """Runs one batch: loss, gradients averaged over the processes, optimizer steps."""
        pool, index, batch = next(self._coming)
        factor = learning_rate_factor(self.progress.step, self.section)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with self._autocast():
            loss, figures = self._loss(batch)
        value = float(loss.detach())
        self.require_finite("loss", value)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.section.gradient_clip)
        self.require_finite("gradient", float(norm))
        for optimizer in self.optimizers:
            optimizer.step()
        self.progress.pool, self.progress.index = pool, index + 1
        return {"loss": value, **figures}

    def measure(self) -> dict[str, float]:
        """The figures of ``measure``."""
        with torch.no_grad(), self._autocast():
            return self._measure()

    def load(self) -> dict[str, Any]:
        """Restores weights and moments in place; returns the counters."""
        return load_state(self.state_path, self.model, self.optimizers)

    def save(self) -> None:
        """Saves the state, exports, and draws the curves, in one process while the others wait."""
        if self.log is not None:
            save_state(self.state_path, self.model, self.optimizers, asdict(self.progress))
            self._export()
            self.log.draw()
        barrier()


def workers_share(tokens: int) -> int:
    """This worker's share of ``tokens``."""
    return tokens // world_size()
