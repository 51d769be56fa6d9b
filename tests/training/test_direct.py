"""Direct training end to end on a toy shape: it learns, resumes exactly, and exports what the engine loads."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.tokenizer import load_tokenizer
from training.config import ConfigError, DirectConfig, load_config
from training.direct import DirectTraining, TrainingError, learning_rate_factor

CONFIG = Path(__file__).parents[2] / "training/configs/nano-direct.toml"


def toy(**changes: Any) -> DirectConfig:
    values = load_config(CONFIG).model_dump()
    values["tokenizer"].update(vocab_size=400, samples=200)
    values["transformer"].update(vocab_size=400, hidden_size=32, intermediate_size=48, num_layers=2, head_dim=8)
    values |= {"steps": 6, "warmup_steps": 2, "tokens_per_batch": 1500, "pool_batches": 2}
    values |= {"checkpoint_every": 3, "log_every": 2, **changes}
    return DirectConfig.model_validate(values)


def test_shipped_configuration_is_valid() -> None:
    assert load_config(CONFIG).manifest.block_length == 32


def test_unknown_keys_and_bad_values_are_named(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    for wrong, message in (
        (text.replace("seed =", "sede ="), "sede"),
        (text.replace("block_length = 32", "block_length = 0"), "manifest.block_length"),
        (text.replace("head_dim =", "heads_dim ="), "unknown keys: heads_dim"),
        (text.replace("num_kv_heads = 2", "num_kv_heads = 3"), "not a multiple of num_kv_heads"),
        (text + "\n[", "wrong.toml"),
    ):
        path = tmp_path / "wrong.toml"
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=message):
            load_config(path)


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    config = toy(steps=100, warmup_steps=10, decay_fraction=0.2)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:80] == [1.0] * 70
    assert factors[90] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    whole = DirectTraining(toy(), tmp_path / "whole")
    whole.run()
    interrupted = DirectTraining(toy(), tmp_path / "parts")
    interrupted.progress.step = 0
    batches = interrupted.stream.batches()
    for _ in range(3):  # What run() does until its first checkpoint; then the process dies.
        pool, index, batch = next(batches)
        interrupted._step(batch)
        interrupted.progress.step += 1
        interrupted.progress.pool, interrupted.progress.index = pool, index + 1
    interrupted.save()
    resumed = DirectTraining(toy(), tmp_path / "parts")
    assert resumed.progress.step == 3
    resumed.run()
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    assert "held_out_loss" in caplog.text


def test_the_export_is_a_servable_checkpoint(tmp_path: Path) -> None:
    training = DirectTraining(toy(), tmp_path)
    training.run()
    checkpoint = load_checkpoint(training.export_path)
    tokenizer = load_tokenizer(training.export_path)
    assert checkpoint.manifest.mask_token_id == tokenizer.mask_token_id
    assert checkpoint.manifest.stop_token_ids == (tokenizer.eos_token_id,)
    torch.testing.assert_close(
        checkpoint.transformer.norm.weight, training.model.norm.weight.detach(), rtol=0.01, atol=0.01
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path: Path) -> None:
    training = DirectTraining(toy(), tmp_path)
    training.save()
    before = training.state_path.read_bytes()
    with torch.no_grad():
        training.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        training.run()
    assert training.state_path.read_bytes() == before
