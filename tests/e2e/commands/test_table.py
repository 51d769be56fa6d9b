"""The comparison table: its rows, its figures, and what it refuses, on three tiny random models."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cdlm.cli.eval.rows import NAIVE, REFERENCE_STUDENT, ROWS, TRUNCATED, Models
from cdlm.cli.eval.table import tokens_per_step
from cdlm.cli.main import app
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.config import Manifest, TransformerConfig
from cdlm.model.loading.export import save_checkpoint
from cdlm.model.network.transformer import Transformer
from cdlm.model.tokens.tokenizer import load_tokenizer
from tests.support.models.checkpoints import AXES

NAMES = [
    "naive_teacher", "naive_teacher_early_stop", "truncated_teacher", "prefix_cache", "dual_cache", "dkv_cache",
    "dllm_cache", "eb_sampler_teacher", "student", "student_tau_0.85", "student_tau_0.9", "student_tau_0.95",
    "student_tau_0.98", "student_tau_0.99", "student_factor", "student_eb_sampler", "autoregressive",
]  # fmt: skip
COLUMNS = {
    "name", "task", "decoding", "n", "score", "interval", "denoise_steps", "steps_reduction", "latency_s",
    "latency_mean_s", "latency_ratio", "tokens_per_s", "tokens_per_step", "generated_length", "forwards",
}  # fmt: skip


def write_model(directory: Path, **manifest: Any) -> None:
    """A model of random weights with the bundled tokenizer; its confidences spread over (0, 1)."""
    tokenizer = load_tokenizer(BUNDLED_STUDENT)
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2,
            num_kv_heads=1, head_dim=8,
        )
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data.normal_(std=1.0)
    ids = {"mask_token_id": tokenizer.mask_token_id, "stop_token_ids": (tokenizer.eos_token_id, *range(40, 70))}
    values = {"block_length": 8, "confidence_threshold": 0.9, "max_model_len": 512, "shift": True, **ids, **manifest}
    save_checkpoint(directory, model, Manifest(**values))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_STUDENT / name, directory)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for name in ("teacher", "student", "autoregressive"):
        write_model(directory / name / "checkpoint", **(AXES[name][1] if name == "autoregressive" else {}))
    return directory


def table(runs: Path, *arguments: str) -> tuple[int, str]:
    common = ("--count", "2", "--latency-count", "1", "--generation-length", "16", "--seed", "5", "--runs", str(runs))
    result = CliRunner().invoke(app, ["eval", "--table", *common, *arguments])
    return result.exit_code, result.output


def test_every_row_of_both_tasks_has_all_figures(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    code, output = table(runs, "--json", str(file))
    assert code == 0, output
    result = json.loads(file.read_text())
    assert set(result) == {
        "command", "date", "machine", "generation_length", "split", "seed", "count", "latency_count", "rows",
    }  # fmt: skip
    assert (result["generation_length"], result["seed"], result["count"], result["latency_count"]) == (16, 5, 2, 1)
    assert {"cpu", "threads", "torch"} <= set(result["machine"])
    assert [(row["task"], row["name"]) for row in result["rows"]] == [
        (task, name) for task in ("words", "functions") for name in NAMES
    ]
    assert list(ROWS) == NAMES
    for task in ("words", "functions"):
        rows = {row["name"]: row for row in result["rows"] if row["task"] == task}
        assert all(name in output for name in rows)
        for row in rows.values():
            assert set(row) >= COLUMNS
            assert row["n"] == 2
            assert row["interval"][0] <= row["score"] <= row["interval"][1]
            assert row["latency_s"] > 0
            assert row["forwards"] >= row["denoise_steps"] >= 1
            assert row["steps_reduction"] == pytest.approx(rows[NAIVE]["denoise_steps"] / row["denoise_steps"])
            assert row["tokens_per_step"] == pytest.approx(row["generated_length"] / row["denoise_steps"])
        check_teachers(rows)
        assert rows["autoregressive"]["denoise_steps"] >= rows["autoregressive"]["generated_length"]


def check_teachers(rows: dict[str, dict[str, Any]]) -> None:
    assert rows[NAIVE]["denoise_steps"] == 16
    assert rows[NAIVE]["latency_ratio"] == 1.0
    truncated = rows[TRUNCATED]
    student = rows[REFERENCE_STUDENT]["denoise_steps"]  # Of one or two blocks.
    assert student / 2 <= truncated["student_steps_per_block"] <= student
    assert truncated["steps_per_block"] == math.ceil(8 / truncated["tokens_per_step_of_rule"])
    assert truncated["denoise_steps"] == 2 * truncated["steps_per_block"]
    assert rows["dkv_cache"]["denoise_steps"] == rows["naive_teacher_early_stop"]["denoise_steps"]


def test_the_timed_answer_of_a_row_equals_its_answer_in_a_batch(runs: Path) -> None:
    models = Models(runs, 24)
    rng = random.Random(0)
    prompts = [[rng.randrange(200, 900) for _ in range(length)] for length in (5, 9, 5, 7)]
    lengths = set()
    for name in ROWS:
        row = models.row(name, truncated_count=3)
        together, alone = row.answer_many(prompts), [row.answer([prompt])[0] for prompt in prompts]
        assert [(a.token_ids, a.steps) for a in together] == [(a.token_ids, a.steps) for a in alone], name
        lengths |= {len(answer.token_ids) for answer in together}
    assert len(lengths) > 1
    naive = models.row(NAIVE, truncated_count=1).answer(prompts[:1])[0]
    assert (naive.steps, naive.blocks) == (24, 3)
    assert models.row(TRUNCATED, truncated_count=3).answer(prompts[:1])[0].steps == 9


@pytest.mark.parametrize(
    ("steps", "block", "expected"),
    [(1.2, 32, 32), (0.3, 32, 32), (5.4, 32, 7), (9.0, 32, 4), (31.7, 32, 1), (2.6, 8, 3), (1.0, 1, 1)],
)
def test_tokens_a_step_of_the_truncated_teacher(steps: float, block: int, expected: int) -> None:
    assert tokens_per_step(steps, block) == expected


def test_some_rows_and_a_picture(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, picture = tmp_path / "table.json", tmp_path / "table.png"
    code, output = table(runs, "--rows", "truncated_teacher,dual_cache", "--json", str(file), "--picture", str(picture))
    assert code == 0, output
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == ["truncated_teacher", "dual_cache"] * 2
    assert all(row["steps_reduction"] is None and row["latency_ratio"] is None for row in rows)
    assert rows[0]["tokens_per_step_of_rule"] >= 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_kept_answers_are_scored_and_only_other_ones_decoded_again(runs: Path, tmp_path: Path) -> None:
    own = tmp_path / "runs"
    shutil.copytree(runs, own)
    file, folder = tmp_path / "table.json", tmp_path / "answers"
    arguments = ("--task", "words", "--rows", "dual_cache,student", "--answers", str(folder), "--json", str(file))

    def rows_of() -> tuple[list[dict[str, Any]], str]:
        code, output = table(own, *arguments)
        assert code == 0, output
        result: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
        times = {"latency_s", "latency_mean_s", "tokens_per_s"}
        return [{name: value for name, value in row.items() if name not in times} for row in result], output

    first, output = rows_of()
    assert "kept answers" not in output
    assert {path.name for path in folder.iterdir()} == {"words-dual_cache.json", "words-student.json"}
    second, output = rows_of()
    assert second == first
    assert output.count("(kept answers)") == 2

    write_model(own / "student" / "checkpoint", confidence_threshold=0.2)
    third, output = rows_of()
    assert output.count("(kept answers)") == 1
    assert third[0] == first[0]
    assert third[1]["denoise_steps"] != first[1]["denoise_steps"]

    (folder / "words-dual_cache.json").write_text('{"of"')
    assert rows_of()[0] == third


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "naive_teacher,students"), "unknown row 'students'"),
        (("--runs", "/nowhere", "--rows", "dual_cache"), "/nowhere/teacher/checkpoint: no such checkpoint directory"),
        (("--concurrency", "2"), "--concurrency cannot be used with --table"),
        (("--generation-length", "33", "--rows", "dual_cache"), "33"),
        (("--generation-length", "4096", "--rows", "student_factor"), "exceed the context"),
    ],
)
def test_what_is_refused(runs: Path, arguments: tuple[str, ...], message: str) -> None:
    code, output = table(runs, *arguments)
    assert code in (1, 2)
    assert message in output


def test_table_options_need_the_table() -> None:
    result = CliRunner().invoke(app, ["eval", "--rows", "naive_teacher"])
    assert result.exit_code == 2
    assert "--rows needs --table" in result.output
