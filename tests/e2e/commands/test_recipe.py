"""The recipe as a user runs it: every stage through the command, then what a damaged run directory says."""

import subprocess
import sys
from pathlib import Path

import pytest

from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.command import cdlm

RECIPE = """
seed = 5
[mixture]
words = 0.1
functions = 0.1
chat = 0.8
[tokenizer]
vocab_size = 320
samples = 100
[transformer]
vocab_size = 320
hidden_size = 16
intermediate_size = 24
num_layers = 2
num_heads = 2
num_kv_heads = 1
head_dim = 8
[manifest]
block_length = 8
confidence_threshold = 0.9
max_model_len = 1024
[trajectories]
examples = 8
temperatures = [0.0, 0.5]
generation_length = 64
shard_size = 4
batch_size = 4
[autoregressive]
{descent}
[teacher]
generation_length = 256
{descent}
[student]
{descent}
"""
DESCENT = """
steps = 2
warmup_steps = 1
decay_fraction = 0.5
tokens_per_batch = 2000
learning_rate = 0.01
embedding_learning_rate = 0.01
log_every = 1
"""


def train(stage: str, directory: Path, workers: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdlm", "train", stage, "--config", str(directory / "recipe.toml")]
    command += ["--output", str(directory / "run"), "--workers", str(workers)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def refused(directory: Path, config: str = "recipe.toml") -> str:
    """The last line that training a student ends with, which begins no process."""
    places = ("--config", str(directory / config), "--output", str(directory / "run"))
    done = cdlm("train", "student", *places, "--workers", "1")
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_four_commands_make_a_student(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(descent=DESCENT))
    assert refused(tmp_path).endswith("is missing: run the teacher stage first")

    places = ("--config", str(tmp_path / "recipe.toml"), "--output", str(tmp_path / "run"))
    for stage in ("autoregressive", "teacher", "trajectories"):  # They begin no process.
        alone = cdlm("train", stage, *places, "--workers", "1")
        assert alone.exit_code == 0, alone.stderr
    done = train("student", tmp_path, workers=2)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    student = load_checkpoint(run / "student" / "checkpoint")
    assert (student.manifest.block_length, student.manifest.shift, student.manifest.bidirectional) == (8, True, False)
    assert (run / "student" / "loss.png").exists()

    for config, change, message in (
        ("blocks.toml", ("block_length = 8", "block_length = 4"), "block"),
        ("recipe.toml", None, "shard-00001.safetensors"),
    ):
        if change:
            (tmp_path / config).write_text(RECIPE.format(descent=DESCENT).replace(*change))
        else:
            (run / "trajectories" / "shard-00001.safetensors").unlink()
        assert message in refused(tmp_path, config)
    assert load_checkpoint(run / "student" / "checkpoint").manifest == student.manifest
