"""``cdlm plan`` as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cdlm.cli.display import quantity
from cdlm.cli.main import app
from cdlm.model.uploads import Uploads
from cdlm.scheduler.warm_up import RESERVE
from tests.support.command import cdlm
from tests.support.models.checkpoints import build_checkpoint

H100 = ("--model", "dream-7b", "--device", "h100")


def plan(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def figures(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "plan.json"
    plan(*arguments, "--json", str(path))
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_rows_of_auto_are_those_of_the_roofline_and_of_the_memory(tmp_path: Path) -> None:
    roomy = figures(tmp_path, *H100)
    assert roomy["auto_rows"]["rows"] == -(-roomy["student_ridge_batch"] // 1) == 9
    assert any("--max-num-seqs auto' takes 9 rows: from there on h100-sxm" in line for line in roomy["findings"])
    tight = figures(tmp_path, "--model", "llada-8b", "--device", "l4", "--context", "2048")
    assert tight["auto_rows"]["rows"] == tight["memory"]["requests"] < tight["student_ridge_batch"]
    assert "the KV pool holds no more requests of 2080 positions" in tight["auto_rows"]["reason"]


def test_what_a_step_takes_is_listed_with_its_sizes(tmp_path: Path) -> None:
    found = figures(tmp_path, *H100)
    step = found["step_memory"]
    # 8192 tokens of two states of 3584 and three of 18944, two bytes each; the logits of nine blocks of 32.
    assert step["activations"] == 8192 * 2 * (2 * 3584 + 3 * 18944)
    assert step["logits"] == 9 * 32 * 152064 * 2
    assert step["uploads"] == Uploads(torch.device("cpu")).capacity * 4
    assert (step["kept"], step["graphs"] > 2**20) == (RESERVE, True)
    assert figures(tmp_path, *H100, "--tensor-parallel", "2")["step_memory"]["graphs"] == 0
    [line] = [line for line in found["findings"] if line.startswith("Beside weights and pages")]
    assert f"about {quantity(step['activations'], 'B')} of activations" in line


def test_the_command_prints_table_and_findings() -> None:
    result = cdlm("plan", *H100, "--batch", "1,64", COLUMNS="200")
    assert result.exit_code == 0, result.stderr
    assert "dream-7b (7.62B) on h100-sxm, bfloat16, 1024 cached tokens, 4 tokens per forward" in result.stdout
    for sentence in (
        "The student is memory-bound below batch 9 and compute-bound from there (ridge 295 FLOP/byte).",
        "An autoregressive model overtakes at batch 39",
        "4 tokens per forward is the default, an eighth of the block, and no measurement",
        "Every time is a bound",
    ):
        assert sentence in result.stdout


def test_json_holds_what_the_table_shows(tmp_path: Path) -> None:
    result = figures(tmp_path, *H100, "--batch", "64,1,8,8", "--tokens-per-forward", "6")
    assert [row["batch"] for row in result["batches"]] == [1, 8, 64]
    assert result["tokens_per_forward_stated"]
    assert not any("default" in line for line in result["findings"])
    for row in result["batches"]:
        assert row["tokens_per_s"] == pytest.approx(row["batch"] * 6 * row["forwards_per_s"])
        ratio = row["tokens_per_s"] / row["autoregressive_tokens_per_s"]
        assert row["student_over_autoregressive"] == pytest.approx(ratio)
    assert [row["bound"] for row in result["batches"]] == ["memory", "memory", "compute"]
    assert "replicas" not in result["batches"][0]


def test_a_load_in_tokens_or_in_requests_needs_the_same_replicas(tmp_path: Path) -> None:
    load = ("--tokens-per-request", "200", "--batch", "4,32")
    tokens = figures(tmp_path, *H100, *load, "--target-tokens-per-s", "40000")
    requests = figures(tmp_path, *H100, *load, "--target-requests-per-s", "200")
    replicas = [row["replicas"] for row in tokens["batches"]]
    assert replicas == [row["replicas"] for row in requests["batches"]]
    assert replicas == sorted(replicas, reverse=True)
    for row in tokens["batches"]:
        assert (row["replicas"] - 1) * row["requests_per_s"] < 200 <= row["replicas"] * row["requests_per_s"]
    assert f"at least {replicas[-1]} replicas" in " ".join(tokens["findings"])


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    arguments = ("--model", "llada-8b", "--device", "l4", "--dtype", "float32", "--target-requests-per-s", "1")
    result = figures(tmp_path, *arguments)
    assert result["memory"]["requests"] == 0
    assert not any(row["fits"] for row in result["batches"])
    findings = " ".join(result["findings"])
    assert "The weights do not fit" in findings
    assert "no number of replicas" in findings
    result = figures(tmp_path, "--model", "llada-8b", "--device", "h100", "--context", "3500")
    assert result["memory"]["requests"] < result["student_ridge_batch"]
    assert f"Only {result['memory']['requests']} requests fit" in result["findings"][1]


def test_tensor_parallel_says_what_it_ignores(tmp_path: Path) -> None:
    one, two = figures(tmp_path, *H100), figures(tmp_path, *H100, "--tensor-parallel", "2")
    assert two["weight_bytes"] == one["weight_bytes"] / 2
    assert two["memory"]["requests"] > 2 * one["memory"]["requests"]
    assert any("not counted" in line for line in two["findings"])


def test_a_directory_without_weights_is_enough(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path / "tiny")
    (directory / "model.safetensors").unlink()
    result = figures(tmp_path, "--model", str(directory), "--device", "rtx4090", "--context", "1000")
    assert result["parameters"] > 0
    assert any("'cdlm serve' would refuse" in line for line in result["findings"])


def test_measuring_puts_this_machine_beside_the_bound(tmp_path: Path) -> None:
    result = figures(tmp_path, "--model", "cdlm-nano", "--device", "cpu", "--measure", "--context", "40")
    assert result["dtype"] == "float32"
    measured = result["measured"]
    assert measured["weights"] == "weights of cdlm-nano"
    assert [row["tokens"] for row in measured["forwards"]] == [32, 128, 512]
    for row in measured["forwards"]:
        assert row["measured_over_predicted"] == pytest.approx(row["measured_s"] / row["predicted_s"])
    predicted = [row["predicted_s"] for row in measured["forwards"]]
    assert predicted[0] < predicted[1] < predicted[2] <= 16 * predicted[0] * 1.000001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "gpt-5", "--device", "h100"), "--model: 'gpt-5' is no checkpoint and no preset"),
        (("--model", "dream-7b", "--device", "abacus"), "--device: 'abacus' is not known; known: a100-40gb"),
        (("--model", "{empty}", "--device", "h100"), "--model: {empty}/config.json: missing"),
        ((*H100, "--batch", "1,x"), "--batch: '1,x' is not a list"),
        ((*H100, "--batch", "0,4"), "--batch: 0 is not a batch size"),
        ((*H100, "--context", "0"), "--context"),
        ((*H100, "--prompt-length", "-1"), "--prompt-length"),
        ((*H100, "--tokens-per-forward", "0.5"), "--tokens-per-forward: 0.5 is not between 1 and the block length 32"),
        ((*H100, "--tokens-per-forward", "33"), "--tokens-per-forward: 33 is not between"),
        (
            ("--model", "fast-dllm-v2-7b", "--device", "h100", "--tokens-per-forward", "17"),
            "--tokens-per-forward: 17 is not between 1 and half the block length 32",
        ),
        ((*H100, "--tensor-parallel", "8"), "--tensor-parallel: 8 devices cannot share 28 heads"),
        ((*H100, "--compute-efficiency", "1.5"), "--compute-efficiency"),
        ((*H100, "--memory-efficiency", "0"), "--memory-efficiency"),
        ((*H100, "--memory-reserve", "1"), "--memory-reserve"),
        ((*H100, "--dtype", "fp8"), "--dtype"),
        ((*H100, "--target-tokens-per-s", "5", "--target-requests-per-s", "5"), "give one"),
        ((*H100, "--measure"), "--device cpu and --measure need each other"),
        (("--model", "dream-7b", "--device", "cpu"), "--device cpu and --measure need each other"),
        (("--model", "dream-7b", "--device", "cpu", "--measure", "--dtype", "int4"), "--measure runs on one processor"),
        ((*H100, "--json", "{empty}/no/plan.json"), "--json: "),
        (("--device", "h100"), "--model"),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [argument.replace("{empty}", str(tmp_path)) for argument in arguments]
    result = CliRunner().invoke(app, ["plan", *given], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message.replace("{empty}", str(tmp_path)) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mixture_reads_the_experts_that_are_chosen(tmp_path: Path) -> None:
    found = figures(tmp_path, "--model", "llada2-mini", "--device", "h100", "--batch", "1,4,64")
    assert found["experts"] == 256
    assert found["active_parameters"] / found["parameters"] == pytest.approx(0.089, abs=0.001)
    assert found["streamed_bytes_one_row"] < 0.7 * found["streamed_bytes"]
    # A block reads two thirds of the experts, one token a thirtieth; many rows share them all.
    assert [row["student_over_autoregressive"] < 1 for row in found["batches"]] == [True, True, False]
    assert found["crossover_batch"] is None
    lines = "\n".join(found["findings"])
    assert "A token uses 9% of the parameters; a forward of one row reads about 22 GB" in lines
    assert "of the batches above, the student is behind an autoregressive model at 1, 4." in lines
    # Eight outputs of 2048 for each of 8192 tokens, in two bytes and in four.
    assert found["step_memory"]["activations"] == 8192 * (2 * 2 * 2048 + 8 * 2048 * (2 + 4))
    many = figures(tmp_path, "--model", "llada2-mini", "--device", "h100", "--batch", "64")
    assert any("the student is ahead of an autoregressive model." in line for line in many["findings"])
    dense = figures(tmp_path, *H100)
    assert (dense["experts"], dense["active_parameters"]) == (0, dense["parameters"])


def test_an_unknown_model_lists_the_presets() -> None:
    result = CliRunner().invoke(app, ["plan", "--model", "gpt-5", "--device", "h100"])
    names = (
        "dream-7b, llada-8b, sdar-1.7b, sdar-4b, sdar-8b, dream-reasoner-8b, stable-diffcoder-8b, "
        "nemotron-labs-diffusion-8b, fast-dllm-v2-1.5b, fast-dllm-v2-7b, llada2-mini, sdar-30b-a3b, cdlm-smol, "
        "cdlm-nano"
    )
    assert f"presets: {names}" in result.stderr


def test_quantities_keep_three_digits() -> None:
    values = {15231233024: "15.2 GB", 3.35e12: "3.35 TB", 57344: "57.3 kB", 999.9: "1 kB", 12: "12 B", 0.5: "500 mB"}
    assert {value: quantity(value, "B") for value in values} == values
    assert quantity(2.5e-7, "s") == "0.25 us"
    assert quantity(0.0, "s") == "0 us"
