"""The student stage on a tiny random teacher: it learns, it stops and goes on, and what it exports can be served."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import PreTrainedTokenizerFast

from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.config import CollectionSection, LossSection, RecipeConfig
from cdlm.training.descent.checkpoint import load_state
from cdlm.training.descent.optimizers import make_optimizers
from cdlm.training.descent.stages import export
from cdlm.training.errors import TrainingError
from cdlm.training.student.objective import AskedLogits, StudentObjective
from cdlm.training.student.rows import StudentBatch
from cdlm.training.student.run import run_student
from cdlm.training.student.stream import StudentStream
from cdlm.training.trajectories.collect import collect
from cdlm.training.trajectories.store import TrajectoryStore, tokenizer_fingerprint
from tests.support.models.checkpoints import EOS, MASK, VOCAB, build_checkpoint

BLOCK = 8


def recipe(tmp_path: Path, **student: float) -> RecipeConfig:
    shape = load_checkpoint(tmp_path / "teacher" / "checkpoint").transformer.config
    stage = {
        "steps": 60,
        "warmup_steps": 2,
        "decay_fraction": 0.5,
        "tokens_per_batch": 600,
        "learning_rate": 0.01,
        "embedding_learning_rate": 0.01,
        "log_every": 10,
    }
    return RecipeConfig.model_validate(
        {
            "seed": 1,
            "mixture": {"words": 1.0},
            "tokenizer": {"vocab_size": 300, "samples": 100},
            "transformer": {name: getattr(shape, name) for name in shape.__slots__},
            "manifest": {"block_length": BLOCK, "confidence_threshold": 0.85, "max_model_len": 128},
            "autoregressive": stage,
            "teacher": {**stage, "generation_length": 16},
            "trajectories": {
                "examples": 6,
                "temperatures": [0.0],
                "generation_length": 16,
                "shard_size": 4,
                "batch_size": 4,
            },
            "student": {**stage, **student},
        }
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory in which the teacher (shifted, as Dream) and its trajectories are done."""
    checkpoint = load_checkpoint(build_checkpoint(tmp_path / "source", "shifted", block_length=BLOCK))
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{EOS}", mask_token=f"w{MASK}")
    export(tmp_path / "teacher" / "checkpoint", checkpoint.transformer, tokenizer, checkpoint.manifest)
    checkpoint = load_checkpoint(tmp_path / "teacher" / "checkpoint")  # As exported, rounded to bfloat16.
    examples = [([10 + number, 20, 30][: 2 + number % 2], [40 + number, 50, EOS]) for number in range(6)]
    collect(
        checkpoint.transformer,
        checkpoint.manifest,
        examples,
        tmp_path / "trajectories",
        CollectionSection(temperatures=(0.0,), generation_length=16, shard_size=4, batch_size=4),
        tokenizer=tokenizer_fingerprint(tokenizer),
        seed=0,
    )
    return tmp_path


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "student" / "log.jsonl").read_text().splitlines()]


def test_the_student_learns_what_the_teacher_wrote_and_can_be_served(run: Path) -> None:
    run_student(recipe(run), run)
    entries = log(run)
    assert entries[-1]["distillation"] < 0.5 * entries[0]["distillation"]
    assert entries[-1]["dlm"] < 0.7 * entries[0]["dlm"]
    assert {"loss", "distillation", "consistency", "dlm"} <= entries[0].keys()

    checkpoint = load_checkpoint(run / "student" / "checkpoint")
    manifest = checkpoint.manifest
    assert (manifest.block_length, manifest.confidence_threshold, manifest.shift) == (BLOCK, 0.85, True)
    assert manifest.stop_token_ids[0] == EOS
    assert load_tokenizer(run / "student" / "checkpoint").get_vocab()
    teacher = load_checkpoint(run / "teacher" / "checkpoint").transformer
    assert not torch.equal(checkpoint.transformer.lm_head.weight, teacher.lm_head.weight)


def test_a_student_resumed_after_a_kill_equals_an_uninterrupted_one(run: Path) -> None:
    config = recipe(run, steps=6, checkpoint_every=3)
    run_student(config, run)
    (run / "student").rename(run / "uninterrupted")

    class _Killed(Exception):
        pass

    updates = itertools.count(1)

    def die_in_step_five(*_: object) -> None:
        if next(updates) == 2 * 5:  # A step updates with two optimizers.
            raise _Killed

    hook = register_optimizer_step_pre_hook(die_in_step_five)
    with pytest.raises(_Killed):
        run_student(config, run)
    hook.remove()
    run_student(config, run)

    states = []
    for directory in (run / "uninterrupted", run / "student"):
        checkpoint = load_checkpoint(directory / "checkpoint")
        model = checkpoint.transformer
        progress = load_state(directory / "state.safetensors", model, make_optimizers(model, config.student))
        assert progress["step"] == 6
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=0, msg=name)


def test_missing_stages_and_another_block_length_are_refused(run: Path, tmp_path: Path) -> None:
    config = recipe(run)
    with pytest.raises(TrainingError, match="run the teacher stage first"):
        run_student(config, tmp_path / "nowhere")
    other = config.model_copy(update={"manifest": config.manifest.model_copy(update={"block_length": 4})})
    with pytest.raises(TrainingError, match="block length"):
        run_student(other, run)


def test_all_weights_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not be all 0"):
        LossSection(distillation=0.0, consistency=0.0, dlm=0.0)


class _Calls(torch.nn.Module):
    """Counts the forwards of a student, with and without gradient."""

    def __init__(self, student: AskedLogits) -> None:
        super().__init__()
        self.student, self.calls = student, []

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        self.calls.append(torch.is_grad_enabled())
        out: torch.Tensor = self.student(*arguments)
        return out


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        ((1.0, 0.5, 0.1), [True, True, False, True]),
        ((1.0, 0.0, 0.1), [True, True]),
        ((0.0, 0.5, 0.0), [True, False]),
        ((0.0, 0.0, 0.1), [True]),
    ],
)
def test_a_weight_of_zero_skips_the_forward_that_only_it_needs(run: Path, weights, calls) -> None:
    batch, student = _batch(run), _Calls(_student(run))
    values = LossSection(distillation=weights[0], consistency=weights[1], dlm=weights[2])
    loss, figures = StudentObjective(student, student.student.transformer.lm_head.weight, values)(batch)
    assert student.calls == calls
    names = ("distillation", "consistency", "dlm")
    assert set(figures) == {name for name, weight in zip(names, weights, strict=True) if weight}
    total = sum(weight * figures.get(name, 0.0) for name, weight in zip(names, weights, strict=True))
    assert loss.item() == pytest.approx(total)


def test_gradients_reach_all_weights_under_autocast_and_the_teachers_head_stays(run: Path) -> None:
    student = _student(run)
    head = student.transformer.lm_head.weight
    objective = StudentObjective(student, head, LossSection(distillation=1.0, consistency=0.5, dlm=0.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = objective(_batch(run))
    loss.backward()
    for name, parameter in student.transformer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert objective.teacher_head.data_ptr() != head.data_ptr()
    assert not objective.teacher_head.requires_grad


def _store(run: Path) -> TrajectoryStore:
    tokenizer = load_tokenizer(run / "teacher" / "checkpoint")
    fingerprint = tokenizer_fingerprint(tokenizer)
    directory = run / "trajectories"
    return TrajectoryStore.open(directory, tokenizer_fingerprint=fingerprint, block_length=BLOCK, hidden_size=32)


def _batch(run: Path) -> StudentBatch:
    stream = StudentStream(_store(run), seed="test", mask_id=MASK, end_id=EOS, block_length=BLOCK)
    _, _, batch = next(stream.batches())
    assert batch.state.asked.any()
    return batch


def _student(run: Path) -> AskedLogits:
    checkpoint = load_checkpoint(run / "teacher" / "checkpoint")
    return AskedLogits(checkpoint.transformer.requires_grad_(True), shift=checkpoint.manifest.shift)


def test_only_trajectories_that_arrived_at_the_truth_can_be_asked_for(run: Path) -> None:
    with pytest.raises(TrainingError, match="0 trajectories are too few"):  # A random teacher is never right.
        run_student(recipe(run, only_exact=True), run)
