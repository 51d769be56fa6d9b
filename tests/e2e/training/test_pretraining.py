"""The first two stages end to end on a tiny model: log, curves, checkpoints, resuming, and what stops them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.config import ConfigError, RecipeConfig, read_config
from cdlm.training.descent.loop import Loop
from cdlm.training.descent.optimizers import learning_rate_factor
from cdlm.training.errors import TrainingError
from cdlm.training.pretraining.run import run_autoregressive, run_teacher
from tests.support.recipes import tiny_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecipeConfig, Path]:
    """A run of both stages."""
    config, directory = tiny_recipe(), tmp_path_factory.mktemp("run")
    run_autoregressive(config, directory)
    run_teacher(config, directory)
    return config, directory


@pytest.mark.parametrize("stage", ["autoregressive", "teacher"])
def test_a_stage_leaves_a_checkpoint_a_log_and_a_picture(finished: tuple[RecipeConfig, Path], stage: str) -> None:
    _, directory = finished
    checkpoint = load_checkpoint(directory / stage / "checkpoint")
    assert checkpoint.manifest.shift
    assert checkpoint.manifest.block_length == (1 if stage == "autoregressive" else 8)
    entries = [json.loads(line) for line in (directory / stage / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert entries[-1]["development_loss"] < entries[0]["development_loss"] + 1
    assert (directory / stage / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_killed_run_ends_with_the_same_weights(finished: tuple[RecipeConfig, Path], tmp_path: Path) -> None:
    config, whole = finished
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(100))
        original = Loop.step

        def die_in_the_sixth_step(self: Loop[Any]) -> dict[str, float]:
            if next(steps) == 5:
                raise KeyboardInterrupt
            return original(self)

        patch.setattr(Loop, "step", die_in_the_sixth_step)
        with pytest.raises(KeyboardInterrupt):
            run_autoregressive(config, tmp_path)
    run_autoregressive(config, tmp_path)
    once, resumed = (load_file(run / "autoregressive" / "state.safetensors") for run in (whole, tmp_path))
    assert once.keys() == resumed.keys()
    assert all(torch.equal(once[name], resumed[name]) for name in once)
    logged = (tmp_path / "autoregressive" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == [2, 4, 6]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(
    finished: tuple[RecipeConfig, Path], tmp_path: Path
) -> None:
    config, _ = finished
    run_autoregressive(config, tmp_path)
    state = tmp_path / "autoregressive" / "state.safetensors"
    kept = state.read_bytes()
    longer = config.model_copy(update={"autoregressive": config.autoregressive.model_copy(update={"steps": 9})})
    with pytest.MonkeyPatch.context() as patch:
        # A real overflow, in the middle of the forward.
        patch.setattr("cdlm.training.pretraining.run.token_loss", _overflow)
        with pytest.raises(TrainingError, match=r"loss is nan at step 6; the last good state is .*state\.safetensors"):
            run_autoregressive(longer, tmp_path)
    assert state.read_bytes() == kept


def _overflow(model: Any, batch: Any, *, shift: bool) -> tuple[torch.Tensor, torch.Tensor]:
    value = next(model.parameters()).sum() * float("inf") * 0
    return value, torch.tensor(0.0)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    section = tiny_recipe().autoregressive.model_copy(update={"steps": 100, "warmup_steps": 10, "decay_fraction": 0.5})
    assert learning_rate_factor(0, section) == pytest.approx(0.1)
    assert learning_rate_factor(30, section) == 1
    assert learning_rate_factor(75, section) == pytest.approx(0.5)
    assert learning_rate_factor(99, section) == pytest.approx(0.02)


def test_the_bundled_recipe_is_valid() -> None:
    config = read_config(Path("training/configs/nano.toml"), RecipeConfig)
    assert config.transformer.vocab_size == config.tokenizer.vocab_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 1300", "stepps = 1300"), "autoregressive.stepps"),
        (("seed = 20261122", "seed = 'x'"), "seed"),
        (("rehearsal = 0.4", "rehearsal = 0.9"), "rehearsal and blockwise"),
        (("hidden_size = 128", "hidden_sise = 128"), "unknown keys: hidden_sise"),
        (("words = 0.62", "poems = 0.62"), "mixture"),
        (("[mixture]", "[mixture"), "line"),
    ],
)
def test_a_bad_recipe_is_refused_by_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = Path("training/configs/nano.toml").read_text()
    assert change[0] in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_config(path, RecipeConfig)
