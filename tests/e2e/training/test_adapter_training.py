"""Adapters on tiny Dream and LLaDA directories: collected, trained alone and by two processes, loaded over the base."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.training.backbone.collect import collect_backbone
from cdlm.training.backbone.config import AdapterConfig
from cdlm.training.backbone.train import train_adapter
from cdlm.training.batches.attention import RowAttention
from cdlm.training.config import ConfigError, read_config
from cdlm.training.errors import TrainingError
from tests.support.forks import script
from tests.support.matrix import some
from tests.support.models.hf_checkpoints import LAYERS, build_dream, build_llada
from tests.support.server.served import free_port

BUILDERS = {"dream": build_dream, "llada": build_llada}
CONFIGS = Path("training/configs")


@pytest.fixture(autouse=True)
def _one_accelerator_a_test() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def config(tmp_path: Path, **optimization: Any) -> AdapterConfig:
    return AdapterConfig.model_validate(
        {
            "seed": 1,
            "model": tmp_path / "base",
            "data": tmp_path / "data.jsonl",
            "block_length": 8,
            "confidence_threshold": 0.7,
            "trajectories": {"generation_length": 16, "shard_size": 4, "batch_size": 4},
            "lora": {"r": 4, "alpha": 8},
            "losses": {"dlm": 0.1},
            "optimization": {
                "steps": 3,
                "batch_size": 4,
                "rows_per_forward": 2,
                "learning_rate": 0.01,
                "mixed_precision": "no",
                "gradient_checkpointing": False,
                "log_every": 1,
                **optimization,
            },
        }
    )


@pytest.fixture(scope="module", params=BUILDERS)
def collected(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a base and its trajectories."""
    path: Path = tmp_path_factory.mktemp(request.param)
    BUILDERS[request.param](path / "base")
    lines = ({"prompt": f"hello {number}", "completion": f"ll {number}"} for number in range(6))
    (path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collect_backbone(config(path), path / "run")
    AcceleratorState._reset_state(reset_partial_state=True)
    return path


@pytest.fixture
def place(collected: Path, tmp_path: Path) -> Path:
    """A copy of ``collected`` for one test."""
    return Path(shutil.copytree(collected, tmp_path / "copy"))


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("collected", some(["llada", "dream"], every=2), indirect=True)
def test_an_adapter_is_trained_and_loads_over_its_base(place: Path) -> None:
    train_adapter(config(place), place / "run")
    assert all(math.isfinite(value) for entry in log(place / "run") for value in entry.values())
    weights = adapter(place / "run")
    assert len(weights) == LAYERS * 7 * 2
    assert all(weight.abs().sum() > 0 for weight in weights.values())  # B started at zero.

    base = load_checkpoint(place / "base")
    student = load_checkpoint(place / "base", adapter=place / "run" / "adapter")
    assert (student.manifest.block_length, student.manifest.confidence_threshold) == (8, 0.7)
    assert student.manifest.shift == base.manifest.shift
    ids = torch.arange(1, 12)[None]
    logits = [
        checkpoint.transformer.logits(checkpoint.transformer(ids, torch.arange(11)[None], RowAttention(None)))
        for checkpoint in (base, student)
    ]
    assert (logits[0] - logits[1]).abs().max() > 0.01


@pytest.mark.parametrize("collected", some(["dream", "llada"], every=2), indirect=True)
def test_bf16_with_gradient_checkpointing_keeps_the_adapter_in_fp32(place: Path) -> None:
    train_adapter(config(place, mixed_precision="bf16", gradient_checkpointing=True), place / "run")
    assert all(math.isfinite(entry["loss"]) for entry in log(place / "run"))
    assert all(weight.dtype == torch.float32 for weight in adapter(place / "run").values())
    assert load_checkpoint(place / "base", adapter=place / "run" / "adapter").manifest.block_length == 8


@pytest.mark.parametrize("collected", ["dream"], indirect=True)
def test_gradient_checkpointing_does_not_change_the_result(place: Path) -> None:
    plain, checkpointed = place / "run", Path(shutil.copytree(place / "run", place / "other"))
    train_adapter(config(place), plain)
    train_adapter(config(place, gradient_checkpointing=True), checkpointed)
    torch.testing.assert_close(adapter(checkpointed), adapter(plain))


def _torchrun(*words: str) -> str:
    """Runs a module in two processes as the documentation says; returns what they say."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


CHILDREN = """
import os, sys
from cdlm import garbage
with garbage.ignored():
    import cdlm.cli.main, cdlm.scheduler.child, cdlm.training.backbone.train
parent, children = os.getpid(), []
for rank in ("0", "1"):
    children.append(os.fork())
    if not children[-1]:
        cdlm.scheduler.child.die_with(parent)
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        del sys.argv[0]
        sys.exit(cdlm.cli.main.main())
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def _start_both(*words: str) -> str:
    """The same with the variables that torchrun sets, in children of a process that has imported what both import."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    variables |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = script.command(CHILDREN, *words)
    done = subprocess.run(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("collected", "fsdp", "start"),
    [
        pytest.param("dream", True, _start_both, marks=pytest.mark.slow),
        pytest.param("llada", True, _torchrun, marks=[pytest.mark.slow, pytest.mark.whole]),
        pytest.param("llada", False, _torchrun, marks=[pytest.mark.slow, pytest.mark.whole]),
    ],
    indirect=["collected"],
)
def test_two_processes_train_the_adapter_that_one_trains(place: Path, fsdp: bool, start: Callable[..., str]) -> None:
    """They take the two forwards of a step at the same time, with shared or with replicated weights."""
    train_adapter(config(place, gradient_checkpointing=True), place / "run")
    shared = place / "shared"
    shutil.copytree(place / "run" / "trajectories", shared / "trajectories")
    toml = f"""
        seed = 1
        model = "{place / "base"}"
        data = "{place / "data.jsonl"}"
        block_length = 8
        trajectories = {{ generation_length = 16 }}
        lora = {{ r = 4, alpha = 8 }}
        losses = {{ dlm = 0.1 }}
        [optimization]
        steps = 3
        batch_size = 4
        rows_per_forward = 2
        learning_rate = 0.01
        mixed_precision = "no"
        fsdp = {str(fsdp).lower()}
        log_every = 1
    """
    (place / "config.toml").write_text(toml)
    said = start("cdlm", "train", "adapter", "--config", str(place / "config.toml"), "--output", str(shared))
    found = re.search(r"of (\d+) weights train, a process holds (\d+)", said)
    assert found
    assert (int(found[2]) < 0.55 * int(found[1])) == fsdp
    torch.testing.assert_close(adapter(shared), adapter(place / "run"), rtol=1e-4, atol=1e-5)
    assert [entry["loss"] for entry in log(shared)] == pytest.approx(
        [entry["loss"] for entry in log(place / "run")], abs=2e-4
    )


@pytest.mark.parametrize("collected", ["llada"], indirect=True)
def test_a_run_resumed_after_a_kill_equals_an_uninterrupted_one(place: Path) -> None:
    whole, broken = place / "run", Path(shutil.copytree(place / "run", place / "broken"))
    settings = config(place, steps=4, checkpoint_every=2)
    train_adapter(settings, whole)

    class _Killed(Exception):
        pass

    updates = itertools.count(1)

    def die_in_step_four(*_: object) -> None:
        if next(updates) == 4:
            raise _Killed

    hook = register_optimizer_step_pre_hook(die_in_step_four)
    with pytest.raises(_Killed):
        train_adapter(settings, broken)
    hook.remove()
    train_adapter(settings, broken)
    torch.testing.assert_close(adapter(broken), adapter(whole), rtol=0, atol=0)
    assert [entry["step"] for entry in log(broken)] == [1, 2, 3, 4]


@pytest.mark.parametrize("collected", ["llada"], indirect=True)
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_state(place: Path) -> None:
    with pytest.raises(TrainingError, match=r"at step 1; the last good state is .*state\.safetensors"):
        train_adapter(config(place, learning_rate=1e30, checkpoint_every=1), place / "run")
    assert all(weight.isfinite().all() for weight in adapter(place / "run").values())


@pytest.mark.parametrize("collected", ["llada"], indirect=True)
def test_what_does_not_fit_is_refused(place: Path) -> None:
    with pytest.raises(TrainingError, match="batch_size 4 is not a multiple of 3"):
        train_adapter(config(place, rows_per_forward=3), place / "run")
    train_adapter(config(place, steps=1), place / "run")
    other = config(place, steps=2)
    other = other.model_copy(update={"lora": other.lora.model_copy(update={"r": 2})})
    with pytest.raises(TrainingError, match="other modules or another rank"):
        train_adapter(other, place / "run")


@pytest.mark.parametrize(
    ("line", "section", "message"),
    [
        ("{", {}, "data.jsonl:2: not JSON"),
        ('{"prompt": "hello"}', {}, "data.jsonl:2: not an object"),
        ("[]", {}, "data.jsonl:2: not an object"),
        ('{"prompt": "", "completion": ""}', {"chat_template": False}, "data.jsonl:2: the prompt has no tokens"),
        ("", {"end_token": "hello"}, "end_token 'hello' is not one of"),
        ("", {"generation_length": 12}, "not a multiple of block_length 8"),
    ],
)
@pytest.mark.parametrize("collected", ["llada"], indirect=True)
def test_unusable_examples_are_named(place: Path, line: str, section: dict[str, Any], message: str) -> None:
    (place / "data.jsonl").write_text('{"prompt": "hello", "completion": "ll"}\n' + line)
    settings = config(place)
    settings = settings.model_copy(update={"trajectories": settings.trajectories.model_copy(update=section)})
    with pytest.raises(TrainingError, match=message):
        collect_backbone(settings, place / "other")


@pytest.mark.parametrize(("name", "dlm"), [("dream-7b", 0.01), ("llada-8b", 0.1)])
def test_the_shipped_configurations_have_the_published_values(name: str, dlm: float, tmp_path: Path) -> None:
    settings = read_config(CONFIGS / f"{name}.toml", AdapterConfig)
    assert (settings.losses.distillation, settings.losses.consistency, settings.losses.dlm) == (1.0, 0.5, dlm)
    assert (settings.block_length, settings.trajectories.generation_length) == (32, 256)
    assert settings.optimization.batch_size == 64
    broken = tmp_path / "broken.toml"
    broken.write_text((CONFIGS / f"{name}.toml").read_text().replace("alpha =", "alhpa ="))
    with pytest.raises(ConfigError, match=r"lora\.alhpa"):
        read_config(broken, AdapterConfig)
