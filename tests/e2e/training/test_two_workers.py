"""Two processes: they collect what one collects, train one model, and their parent says why they stopped."""

import multiprocessing
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from cdlm.training.config import RecipeConfig
from cdlm.training.descent.parallel import launch
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import run_autoregressive, run_teacher
from tests.e2e.training.test_collect import files, run_collect
from tests.support.models.checkpoints import build_checkpoint
from tests.support.recipes import tiny_recipe


def collect_train_and_fail(checkpoint: Path, recipe: RecipeConfig, directory: Path) -> None:
    """A worker's entry point; module level, so that processes can import it."""
    run_collect(checkpoint, directory / "together")
    run_autoregressive(recipe, directory / "run")
    run_teacher(recipe, directory / "empty")


def test_two_workers_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start of two processes does all of it, forked from one that has imported what they import.

    Those of a command are spawned (``tests/e2e/commands/test_recipe.py``).
    """
    multiprocessing.set_forkserver_preload([__name__])
    monkeypatch.setattr("cdlm.training.descent.parallel.spawn", partial(start_processes, start_method="forkserver"))
    checkpoint = build_checkpoint(tmp_path / "teacher", "shifted", block_length=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As the workers do.
    try:
        run_collect(checkpoint, tmp_path / "alone")
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(TrainingError, match="autoregressive stage first"):
        launch(collect_train_and_fail, 2, checkpoint, tiny_recipe(), tmp_path)
    assert files(tmp_path / "together") == files(tmp_path / "alone")
    assert len((tmp_path / "run" / "autoregressive" / "log.jsonl").read_text().splitlines()) == 3


def test_a_teacher_without_its_first_weights_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="autoregressive stage first"):
        launch(run_teacher, 1, tiny_recipe(), tmp_path)
