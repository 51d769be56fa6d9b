"""The first two stages in two processes."""

from pathlib import Path

import pytest

from cdlm.training.descent.parallel import launch
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import run_autoregressive, run_teacher
from tests.support.recipes import tiny_recipe


def test_two_workers_train_one_model(tmp_path: Path) -> None:
    launch(run_autoregressive, 2, tiny_recipe(), tmp_path)
    assert len((tmp_path / "autoregressive" / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_teacher_without_its_first_weights_says_what_to_run(tmp_path: Path, workers: int) -> None:
    with pytest.raises(TrainingError, match="autoregressive stage first"):
        launch(run_teacher, workers, tiny_recipe(), tmp_path)
