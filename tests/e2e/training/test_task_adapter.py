"""The task adapter's training on a tiny next-token model: what it learns, what it leaves, and how it resumes."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.training.backbone.lora import add_adapter, trainable, without_adapter
from cdlm.training.batches.attention import RowAttention, causal_mask
from cdlm.training.config import read_config
from cdlm.training.errors import TrainingError
from cdlm.training.natural.answers import Asked, append, pending, read_answers
from cdlm.training.natural.config import TaskAdapterConfig
from cdlm.training.natural.mixture import Formatter, TaskStream
from cdlm.training.natural.train import TaskObjective, train_task_adapter
from tests.support.models.next_token import GOOD_CODE, REQUESTS, write_answers, write_base
from tests.support.packages import write_packages


def config(place: Path, **optimization: Any) -> TaskAdapterConfig:
    return TaskAdapterConfig.model_validate(
        {
            "seed": 1,
            "model": place / "base",
            "chat_tokens": 64,
            "divergence": 1.0,
            "bare_share": 0.5,
            "mixture": {"words": 0.5, "sums": 0.3, "functions": 0.2},
            "answers": {"chat": 30, "draws": 2, **write_packages(place / "packages")},
            "lora": {"r": 4, "alpha": 8},
            "optimization": {
                "steps": 8,
                "warmup_steps": 1,
                "decay_fraction": 0.5,
                "tokens_per_batch": 640,
                "learning_rate": 2e-2,
                "log_every": 1,
                "checkpoint_every": 4,
                **optimization,
            },
        }
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base, and its answers in ``run``."""
    write_base(tmp_path / "base")
    write_answers(tmp_path / "run")
    return tmp_path


def test_training_writes_an_adapter_that_merges_and_resumes_where_it_was_killed(place: Path) -> None:
    settings, run = config(place), place / "run"
    shutil.copytree(run, place / "killed")
    train_task_adapter(settings, run)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert sum(line["tasks"] for line in lines[-3:]) < sum(line["tasks"] for line in lines[:3]) - 0.3
    assert lines[0]["divergence"] == 0  # B is zero: the adapted model is the base.
    assert lines[-1]["divergence"] > 0
    assert all("kept_divergence" in line for line in lines)

    _train_until(settings, place / "killed", 4)
    train_task_adapter(settings, place / "killed")
    tensors, resumed = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (run, place / "killed"))
    assert tensors.keys() == resumed.keys()
    assert all(torch.equal(tensors[name], resumed[name]) for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}

    base, adapted = (
        load_checkpoint(place / "base", device=torch.device("cpu"), dtype=torch.float32, adapter=adapter)
        for adapter in (None, run / "adapter")
    )
    weights = dict(base.transformer.named_parameters())
    changed = {n for n, p in adapted.transformer.named_parameters() if not torch.equal(p, weights[n])}
    assert changed == {name for name in weights if name.endswith("proj.weight")}


def test_a_training_begins_with_another_adapter(place: Path) -> None:
    """With a learning rate of almost nothing it stays what it was; another rank is refused."""
    shutil.copytree(place / "run", place / "next")
    settings = config(place, steps=4)
    train_task_adapter(settings, place / "run")
    slow = settings.optimization.model_copy(update={"steps": 1, "learning_rate": 1e-9})
    following = settings.model_copy(update={"start": place / "run" / "adapter", "optimization": slow})
    train_task_adapter(following, place / "next")
    first, then = (load_file(place / run / "adapter" / "adapter_model.safetensors") for run in ("run", "next"))
    assert all(torch.allclose(first[name], then[name], atol=1e-6, rtol=0) for name in first)
    assert any(bool(tensor.any()) for name, tensor in then.items() if "lora_B" in name)
    wider = settings.lora.model_copy(update={"r": 8, "alpha": 16})
    with pytest.raises(TrainingError, match=r"start: layers.* has another rank or scale than \[lora\] says"):
        train_task_adapter(following.model_copy(update={"lora": wider}), place / "next")


@pytest.mark.whole
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # Of torch's compiler about torch.
def test_compiled_layers_learn_the_same(place: Path) -> None:
    """The losses of the first steps agree; bfloat16 rounds fused operations otherwise."""
    settings, losses = config(place, steps=4), []
    for compiled in (False, True):
        optimization = settings.optimization.model_copy(update={"compile": compiled})
        directory = place / f"compiled-{compiled}"
        shutil.copytree(place / "run", directory)
        train_task_adapter(settings.model_copy(update={"optimization": optimization}), directory)
        losses.append([json.loads(line)["tasks"] for line in (directory / "log.jsonl").read_text().splitlines()])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_the_precision_is_that_of_the_model_and_its_products(place: Path, precision: str, dtype: torch.dtype) -> None:
    original, seen = TaskObjective._logits, set()

    def logits(self: TaskObjective, rows: Any) -> torch.Tensor:
        found = original(self, rows)
        seen.update({found.dtype, self.transformer.embed_tokens.weight.dtype})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskObjective, "_logits", logits)
        train_task_adapter(config(place, steps=2, mixed_precision=precision), place / "run")
    assert seen == {dtype}
    exported = load_file(place / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}


def _train_until(settings: TaskAdapterConfig, directory: Path, step: int) -> None:
    """Trains and is killed behind the checkpoint of ``step``."""
    original = TaskObjective.__call__
    calls = 0

    def killed(self: TaskObjective, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskObjective, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train_task_adapter(settings, directory)


def test_the_divergence_is_that_of_the_definition(place: Path) -> None:
    settings = config(place)
    base = load_checkpoint(settings.model, device=torch.device("cpu"), dtype=torch.float32).transformer
    add_adapter(base, settings.lora)
    for parameter in trainable(base).values():
        torch.nn.init.normal_(parameter, std=0.2)
    tokenizer = load_tokenizer(settings.model)
    examples = Formatter(tokenizer, 0.0).encode(read_answers(place / "run" / "chat.jsonl")[:3], random.Random(0))
    objective = TaskObjective(base, pad_id=int(tokenizer.eos_token_id), divergence=1.0)
    with torch.no_grad():
        found = float(objective._divergence(examples))
        total, count = 0.0, 0
        for example in examples:  # One row at a time, one position at a time.
            ids = torch.tensor([example.prompt + example.answer])
            row = (ids, torch.arange(ids.shape[1])[None], RowAttention(causal_mask(ids.shape[1])))
            adapted = base.logits(base(*row))[0].softmax(-1)
            with without_adapter(base):
                plain = base.logits(base(*row))[0].softmax(-1)
            for position in range(len(example.prompt) - 1, ids.shape[1] - 1):
                p, q = plain[position], adapted[position]
                total += float((p * (p / q).log()).sum())
                count += 1
    assert found == pytest.approx(total / count, rel=1e-4)
    assert found > 0.01


def test_the_stream_repeats_itself_skips_and_keeps_some_chat_back(place: Path) -> None:
    settings = config(place)
    stream = TaskStream(settings, place / "run", load_tokenizer(settings.model))
    first = [batch for _, batch in zip(range(6), stream.batches(0, 0), strict=False)]
    again = next(stream.batches(0, 5))
    assert again == first[5]
    for _, _, batch in first:
        for group in batch.tasks:
            assert max(example.length for example in group) * len(group) <= (640 - 64) // 2 or len(group) == 1
        assert batch.chat
    sparse = TaskStream(settings.model_copy(update={"chat_every": 3}), place / "run", stream.formatter.tokenizer)
    seldom = [batch for _, batch in zip(range(6), sparse.batches(0, 0), strict=False)]
    assert [bool(batch.chat) for _, _, batch in seldom] == [True, False, False, True, False, False]
    kept = {problem.prompt for problem in stream.kept_chat}
    assert len(kept) == 24
    assert not kept & {problem.prompt for problem in stream.chat}
    assert [problem.prompt for problem in stream.fixed["functions"]] == REQUESTS[:1]
    asked = {problem.prompt for problem in stream.chat}
    assert REQUESTS[0] in asked
    assert REQUESTS[1] not in asked  # What the base gets wrong is not to stay.


def test_measured_problems_are_kept_out(place: Path) -> None:
    functions = (place / "run" / "functions.jsonl").read_text()
    asked = REQUESTS[2]
    row = {"prompt": asked, "draw": 0, "completion": GOOD_CODE, "finished": True, "passed": True}
    append(place / "run", "functions", row)
    mbpp = [{"task_id": 11, "prompt": asked, "test_list": ["assert f() == 1"]}]
    (place / "mbpp.json").write_text(json.dumps(mbpp))
    settings = config(place)
    files = settings.files.model_copy(update={"measured": {"mbpp": place / "mbpp.json"}})
    tokenizer = load_tokenizer(settings.model)
    with_check = TaskStream(settings.model_copy(update={"files": files}), place / "run", tokenizer)
    without = TaskStream(settings, place / "run", tokenizer)
    assert [len(stream.fixed["functions"]) for stream in (with_check, without)] == [1, 2]
    assert functions


def test_answers_to_requests_that_are_no_longer_asked_are_left_out(place: Path) -> None:
    row = {"prompt": "Write held_out()", "draw": 0, "completion": GOOD_CODE, "finished": True, "passed": True}
    append(place / "run", "functions", row)
    settings = config(place)
    stream = TaskStream(settings, place / "run", load_tokenizer(settings.model))
    assert [problem.prompt for problem in stream.fixed["functions"]] == REQUESTS[:1]
    assert row["prompt"] not in {problem.prompt for problem in stream.chat}


def test_prompts_with_and_without_the_system_turn(place: Path) -> None:
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    tokenizer.chat_template = (
        "{% if messages[0].role != 'system' %}<|system|>Be kind.<|end|>{% endif %}"
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
    )
    (problem,) = read_answers(place / "run" / "chat.jsonl")[:1]
    rng = random.Random(0)
    (long,), (bare,) = (Formatter(tokenizer, share).encode([problem], rng) for share in (0.0, 1.0))
    assert tokenizer.decode(long.prompt) == "<|system|>Be kind.<|end|><|user|>What is 0?<|end|><|assistant|>"
    assert tokenizer.decode(bare.prompt) == "<|user|>What is 0?<|end|><|assistant|>"
    assert tokenizer.decode(bare.answer) == "It is the number 0." + tokenizer.eos_token


def test_what_stops_a_training(place: Path, tmp_path: Path) -> None:
    (place / "run" / "functions.jsonl").write_text('{"prompt": 1}\n')
    with pytest.raises(TrainingError, match="not answers of cdlm train task-answers"):
        train_task_adapter(config(place), place / "run")
    (place / "run" / "functions.jsonl").unlink()
    with pytest.raises(TrainingError, match="cdlm train task-answers writes it"):
        train_task_adapter(_again(place), place / "run")
    (place / "run" / "functions.jsonl").write_text("")
    with pytest.raises(TrainingError, match="no rows of functions"):
        train_task_adapter(_again(place), place / "run")
    settings = _again(place).model_copy(update={"model": BUNDLED_STUDENT})
    with pytest.raises(TrainingError, match="not a next-token model"):
        train_task_adapter(settings, place / "run")


def _again(place: Path) -> TaskAdapterConfig:
    shutil.rmtree(place / "packages")
    return config(place)


def test_answers_are_checked_kept_and_asked_once(place: Path) -> None:
    settings, run = config(place), place / "answers"
    run.mkdir()
    section = settings.answers.model_copy(update={"chat": 5})
    wanted = pending(section, run, 1)
    functions = [asked for asked in wanted if asked.kind == "functions"]
    assert (len(wanted) - len(functions), len(functions) % 2) == (5, 0)
    add = next(asked for asked in functions if "add(a, b)" in asked.problem.prompt)
    rows = [
        add.row(GOOD_CODE + "\n", finished=True),
        Asked("functions", add.problem, 1).row(GOOD_CODE.replace("+", "-"), finished=True),
        wanted[-1].row("An answer that was c", finished=False),
    ]
    assert [row.get("passed") for row in rows] == [True, False, None]
    assert rows[0]["completion"] == GOOD_CODE + "\n```"
    for row in rows:
        append(run, "functions" if "passed" in row else "chat", row)
    assert len(pending(section, run, 1)) == len(wanted) - 3
    assert [problem.check for problem in read_answers(run / "functions.jsonl")] == ["passed", ""]
    assert read_answers(run / "chat.jsonl") == []
    append(run, "chat", wanted[-2].row("One sentence. And 3.5 more! Then it was c", finished=False))
    assert [answer.completion for answer in read_answers(run / "chat.jsonl")] == ["One sentence. And 3.5 more!"]


def test_the_configuration_that_ships_is_valid() -> None:
    settings = read_config(Path("training/configs/smol.toml"), TaskAdapterConfig)
    assert sum(settings.mixture.values()) == pytest.approx(1.0)
    assert settings.files.measured.keys() == {"svamp", "mbpp", "humaneval"}
    with pytest.raises(ValueError, match="not be negative"):
        TaskAdapterConfig.model_validate({**settings.model_dump(), "mixture": {"words": -1.0}})
