"""``cdlm train``: the stages of the recipe, each from one configuration file, each resumable."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cdlm.cli.commands import one_line

app = typer.Typer(
    name="train",
    help="Train a student stage by stage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option(help="TOML file of the recipe.", exists=True, dir_okay=False)]
OutputOption = Annotated[Path, typer.Option(help="Run directory of all stages. A stage found in it is resumed.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes, one per core.")]
_CORES = os.cpu_count() or 1


@app.command()
def autoregressive(config: ConfigOption, output: OutputOption, workers: WorkersOption = _CORES) -> None:
    """Train a next-token model from random weights: the baseline, and the teacher's start."""
    from cdlm.training.pretraining.run import run_autoregressive

    _launch(run_autoregressive, config, output, workers)


@app.command()
def teacher(config: ConfigOption, output: OutputOption, workers: WorkersOption = _CORES) -> None:
    """Train the bidirectional masked-diffusion teacher."""
    from cdlm.training.pretraining.run import run_teacher

    _launch(run_teacher, config, output, workers)


@app.command()
def trajectories(config: ConfigOption, output: OutputOption, workers: WorkersOption = _CORES) -> None:
    """Record how the teacher decodes: tokens, their order, and the states that predicted them."""
    from cdlm.training.trajectories.run import run_trajectories

    _launch(run_trajectories, config, output, workers)


@app.command()
def student(config: ConfigOption, output: OutputOption, workers: WorkersOption = _CORES) -> None:
    """Train the block-causal student on the teacher's trajectories."""
    from cdlm.training.student.run import run_student

    _launch(run_student, config, output, workers)


@app.command()
def text_student(config: ConfigOption, output: OutputOption, workers: WorkersOption = _CORES) -> None:
    """Train a block-causal student on whole texts, from the next-token model and without a teacher."""
    from cdlm.training.student.texts import run_text_student

    _launch(run_text_student, config, output, workers)


AdapterConfigOption = Annotated[Path, typer.Option(help="TOML file of the adapter.", exists=True, dir_okay=False)]
AdapterOutputOption = Annotated[Path, typer.Option(help="Directory of both stages. A stage found in it is resumed.")]


@app.command()
def adapter_trajectories(config: AdapterConfigOption, output: AdapterOutputOption) -> None:
    """Record how a bidirectional backbone (Dream, LLaDA) decodes; `torchrun -m cdlm train ...` uses many GPUs."""
    with _extra():
        from cdlm.training.backbone.collect import collect_backbone

    _adapt(collect_backbone, config, output)


@app.command()
def adapter(config: AdapterConfigOption, output: AdapterOutputOption) -> None:
    """Train a LoRA adapter that makes a backbone a student; `torchrun -m cdlm train ...` uses many GPUs."""
    with _extra():
        from cdlm.training.backbone.train import train_adapter

    _adapt(train_adapter, config, output)


TaskConfigOption = Annotated[Path, typer.Option(help="TOML file of the task adapter.", exists=True, dir_okay=False)]
TaskOutputOption = Annotated[Path, typer.Option(help="Directory of the training. One found in it is resumed.")]


@app.command()
def task_answers(config: TaskConfigOption, output: TaskOutputOption) -> None:
    """Have the base model answer the task adapter's chat prompts and requests for functions, which are checked."""
    from cdlm.cli.bench.client import CompletionError
    from cdlm.cli.local_server import LocalServerError
    from cdlm.cli.task_answers import collect_answers
    from cdlm.training.config import read_config
    from cdlm.training.natural.config import TaskAdapterConfig

    with _one_line_errors(LocalServerError, CompletionError):
        collect_answers(read_config(config, TaskAdapterConfig), output)


ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@app.command()
def task_adapter(config: TaskConfigOption, output: TaskOutputOption, threads: ThreadsOption = _CORES) -> None:
    """Train a LoRA adapter that teaches a next-token model word problems and functions, its chat left as it is."""
    from cdlm.training.natural.config import TaskAdapterConfig

    with _extra():
        from cdlm.training.natural.train import train_task_adapter

    _train_adapter(train_task_adapter, TaskAdapterConfig, config, output, threads)


DraftConfigOption = Annotated[Path, typer.Option(help="TOML file of the draft adapter.", exists=True, dir_okay=False)]


@app.command()
def draft_adapter(config: DraftConfigOption, output: TaskOutputOption, threads: ThreadsOption = _CORES) -> None:
    """Train a LoRA adapter with which a next-token model drafts its own continuation, which its other rows verify."""
    from cdlm.training.drafts.config import DraftAdapterConfig

    with _extra():
        from cdlm.training.drafts.train import train_draft_adapter

    _train_adapter(train_draft_adapter, DraftAdapterConfig, config, output, threads)


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    """Ends the command with one line where packages of the extra are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in ("accelerate", "peft"):
            raise
        typer.echo(f"cdlm train: {package} is not installed: pip install 'cdlm-serve[training]'", err=True)
        raise typer.Exit(1) from None


def _adapt(stage: Callable[..., None], config: Path, output: Path) -> None:
    import torch.distributed as dist

    from cdlm.training.backbone.config import AdapterConfig
    from cdlm.training.config import read_config

    try:
        with _one_line_errors():
            stage(read_config(config, AdapterConfig), output)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _train_adapter(stage: Callable[..., None], kind: type[Any], config: Path, output: Path, threads: int) -> None:
    import torch

    from cdlm.training.config import read_config

    torch.set_num_threads(threads)
    with _one_line_errors():
        stage(read_config(config, kind), output)


@contextlib.contextmanager
def _one_line_errors(*others: type[Exception]) -> Iterator[None]:
    """Logs the first process's progress, and ends the command with one line if a training cannot continue."""
    from cdlm.model.config import CheckpointError
    from cdlm.training.config import ConfigError
    from cdlm.training.errors import TrainingError

    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with one_line("train", CheckpointError, ConfigError, TrainingError, *others):
        yield


def _launch(stage: Callable[..., None], config: Path, output: Path, workers: int) -> None:
    from cdlm.training.config import ConfigError, RecipeConfig, read_config
    from cdlm.training.descent.parallel import launch
    from cdlm.training.errors import TrainingError

    with one_line("train", ConfigError, TrainingError):
        launch(stage, workers, read_config(config, RecipeConfig), output)
