"""Two processes: they collect what one collects, train one model, and their parent says why they stopped."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from cdlm.training.config import RecipeConfig
from cdlm.training.descent.parallel import launch, rank
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import run_autoregressive, run_teacher
from tests.e2e.training.test_collect import files, run_collect
from tests.support.models.checkpoints import build_checkpoint
from tests.support.recipes import tiny_recipe


def collect_train_and_fail(checkpoint: Path, recipe: RecipeConfig, directory: Path) -> None:
    """A worker's entry point; module level, so that processes can import it."""
    imported = "torch._dynamo" in sys.modules
    (directory / f"worker{rank()}.json").write_text(json.dumps([os.getppid(), imported]))
    run_collect(checkpoint, directory / "together")
    run_autoregressive(recipe, directory / "run")
    run_teacher(recipe, directory / "empty")


def test_two_workers_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start of two processes does all of it, in a directory that holds files with the names of packages."""
    for name in ("random", "torch", "cdlm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is not the package')\n")
    monkeypatch.chdir(tmp_path)
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
    if sys.platform == "linux":
        workers = [json.loads((tmp_path / f"worker{rank}.json").read_text()) for rank in range(2)]
        assert workers[0] == workers[1], "they have the same parent, which imported for both"
        assert workers[0][0] != os.getpid()
        assert workers[0][1]


def test_a_teacher_without_its_first_weights_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="autoregressive stage first"):
        launch(run_teacher, 1, tiny_recipe(), tmp_path)
