"""The speed benchmark measures what it says, writes all of it down, and goes on where it was stopped."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.speed.__main__ import app
from benchmarks.speed.comparisons.curve import crossover
from benchmarks.speed.comparisons.table import COMPARISONS
from benchmarks.speed.contenders.baselines import TransformersGenerate
from benchmarks.speed.contenders.load import Load, Unavailable
from benchmarks.speed.contenders.offline import Offline
from benchmarks.speed.contenders.shapes import SHAPES
from benchmarks.speed.contenders.workbench import engine_options
from benchmarks.speed.output.bars import bar_of
from benchmarks.speed.pace import Pace, measure_pace
from benchmarks.speed.settings import QUICK
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.network.transformer import Transformer
from cdlm.scheduler.messages import EngineStats

TINY = SHAPES["tiny"]
# A difference of two short times may come out negative on a busy machine.
UNSIGNED = "time_per_block_64_vs_2_without_attention"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def engine(cache: Path) -> Offline:
    return Offline(engine_options(TINY.directory(cache), "float32", QUICK, 2**24))


def speed(cache: Path, output: Path, *options: str) -> Any:
    fixed = ["--quick", "--shape", "tiny", "--tokens-per-forward", "8", "--cache", str(cache), "--output", str(output)]
    return CliRunner().invoke(app, [*fixed, *options])


def comparisons(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "result.json").read_text())["comparisons"]
    return found


@pytest.mark.slow
def test_a_quick_run_measures_everything_and_reports_it(cache: Path, tmp_path: Path) -> None:
    result = speed(cache, tmp_path, "--vllm", "/bin/false")
    assert result.exit_code == 0, result.output
    entries = comparisons(tmp_path)
    assert {entry["name"] for entry in entries.values()} == {comparison.name for comparison in COMPARISONS}
    report = (tmp_path / "README.md").read_text()
    [absent] = [entry for entry in entries.values() if "skipped" in entry]
    assert absent["name"] == "tokens_per_s_vs_vllm"
    assert "did not come up" in absent["skipped"]
    assert absent["skipped"] in report
    for key, entry in entries.items():
        for name, ratio in entry.get("ratios", {}).items():
            assert len(ratio["values"]) == QUICK.repetitions
            assert ratio["min"] <= ratio["median"] <= ratio["max"]
            assert math.isfinite(ratio["median"])
            assert ratio["min"] > 0 or name == UNSIGNED, (key, ratio)
            assert f"| {name} | tiny | float32 |" in report

    def figures(name: str, contender: str) -> dict[str, float]:
        [entry] = [entry for entry in entries.values() if entry["name"] == name]
        found: dict[str, float] = entry["rounds"][-1][contender]
        return found

    blocks, batch = QUICK.new_tokens // 32, 2
    for name, contender, forwards in (
        ("offline_over_raw", "offline", 4 * blocks),
        ("offline_over_raw", "raw", 4 * blocks),
        ("http_over_offline_burst", "http", 4 * blocks),
        ("forward_cost", "offline", QUICK.new_tokens),
        ("forward_cost", "naive", QUICK.new_tokens),
        ("tokens_per_s_vs_dual_cache", "dual_cache", QUICK.new_tokens),
        ("tokens_per_s_vs_dual_cache", "dual_cache_same_pace", 4 * blocks),
        ("tokens_per_s_vs_transformers", "transformers", QUICK.new_tokens),
        ("tokens_per_s_vs_transformers", "autoregressive", QUICK.new_tokens),
    ):
        found = figures(name, contender)
        assert (found["forwards"], found["tokens"]) == (forwards, batch * QUICK.new_tokens), (name, contender)
    for contender in ("http", "offline"):
        assert figures("http_over_offline", contender)["tokens"] == batch * (64 + 32 + 96 + 64 + 64)
    for contender, joined in (("steady", 0), ("joined", 1), ("steady_http", 0), ("joined_http", 1)):
        found = figures("inter_block_gap_p99", contender)
        assert found["joined"] == joined
        assert found["gaps"] >= QUICK.gaps
        assert 0 < found["gap_p50_s"] <= found["gap_p99_s"] <= found["gap_max_s"]
    raw = figures("time_per_block_64_vs_2", "raw")
    assert raw["attention_last"] > 0
    assert raw["attention_2"] > 0


def test_a_killed_run_goes_on_and_measures_nothing_twice(cache: Path, tmp_path: Path) -> None:
    chosen = ("--comparison", "offline_over_raw", "--comparison", "time_per_block_64_vs_2")
    assert speed(cache, tmp_path, *chosen, "--minutes", "0").exit_code == 0
    assert all("minutes of the run were over" in entry["skipped"] for entry in comparisons(tmp_path).values())
    assert speed(cache, tmp_path, *chosen[:2]).exit_code == 0
    before = comparisons(tmp_path)
    [done] = [key for key, entry in before.items() if "ratios" in entry]
    assert speed(cache, tmp_path, *chosen).exit_code == 0
    after = comparisons(tmp_path)
    assert after.keys() == before.keys()
    assert after[done] == before[done]
    assert all("ratios" in entry for entry in after.values())
    report = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    assert speed(cache, tmp_path, "--report-only").exit_code == 0
    assert (tmp_path / "README.md").read_text() == report

    other = speed(cache, tmp_path, *chosen, "--repetitions", "3")
    assert other.exit_code == 1
    assert "measured with other settings" in other.output
    other = speed(cache, tmp_path, *chosen, "--tokens-per-forward", "2")
    assert other.exit_code == 1
    assert "at another pace" in other.output
    assert comparisons(tmp_path) == after


@pytest.mark.parametrize("option", ["shape", "dtype", "comparison"])
def test_a_name_that_is_not_known_is_refused(cache: Path, tmp_path: Path, option: str) -> None:
    result = speed(cache, tmp_path, f"--{option}", "nonesuch")
    assert result.exit_code == 2
    assert "nonesuch" in result.output
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_parameters_they_state(name: str) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        model = Transformer(shape.transformer())
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


def test_the_replay_forwards_what_the_engine_did(engine: Offline) -> None:
    load = Load((40, 7, 33), (96, 32, 64), steps_per_block=4)
    recording = engine.record(load)
    steps: list[EngineStats] = []
    assert engine.generate(engine.requests(load), steps.append) == load.tokens == recording.tokens
    assert recording.rows == sum(stats.batch_tokens for stats in steps)
    assert len(recording.forwards) == len(steps) == 12
    # The six blocks have 32, 24, 16 and 8 masked positions before their steps.
    assert recording.head_rows == 6 * (32 + 24 + 16 + 8)
    replay = recording.replay()
    assert (replay["forwards"], replay["tokens"]) == (12, 192)
    assert recording.attention_seconds() > 0
    alone = engine.record(load, one_by_one=True)
    assert len(alone.forwards) == 24
    assert alone.rows == recording.rows
    recording.forwards[3].token_ids = recording.forwards[3].token_ids.flip(0)
    with pytest.raises(Unavailable, match="forward 3"):
        recording.verify()


def test_a_long_request_is_cut_at_its_blocks(engine: Offline) -> None:
    load = Load((1,), (127,), steps_per_block=4)
    recordings = engine.record_blocks(load)
    assert [len(recording.forwards) for recording in recordings] == [4, 4, 4, 4]
    # A block after the first commits the one before it in its first forward.
    assert [recording.rows for recording in recordings] == [1 + 4 * 32, 5 * 32, 5 * 32, 5 * 32]
    assert len(engine.block_seconds(load)) == 4


def test_the_causal_twin_is_one_model_to_the_engine_and_to_transformers(cache: Path) -> None:
    directory = TINY.autoregressive_directory(cache)
    causal = Offline(engine_options(directory, "float32", QUICK, 2**24))
    load = Load.equal(2, 16, 32)
    requests = causal.requests(load)
    found = [completion.token_ids for completion in causal.llm.generate(requests)]
    reference = TransformersGenerate(directory, torch.device("cpu"), "float32")
    ids = torch.tensor([request.prompt_ids for request in requests])
    out = reference.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0
    )
    assert found == out[:, 16:].tolist()


def test_no_prompt_is_used_twice_by_an_engine(engine: Offline) -> None:
    load = Load((40, 50), (32, 32))
    prompts = [request.prompt_ids for _ in range(20) for request in engine.requests(load)]
    assert [len(ids) for ids in prompts] == [40, 50] * 20
    assert len({tuple(ids[:32]) for ids in prompts}) == 40


def test_the_pace_is_measured_on_the_student_and_never_rounded_in_its_favor() -> None:
    pace = measure_pace(2, engine_options(BUNDLED_STUDENT, "float32", replace(QUICK, device="cpu")))
    assert pace.problems == 2
    assert 1 < pace.tokens_per_forward <= 32
    assert pace.denoise_steps_per_block is not None
    assert 1 <= pace.denoise_steps_per_block <= 32
    assert [Pace(tokens).steps_per_block for tokens in (1.0, 8.0, 9.7, 16.1, 32.0)] == [32, 4, 4, 2, 1]


def test_the_crossover_lies_where_the_ratio_passes_one() -> None:
    assert crossover([1, 4, 16, 64], [8.0, 4.0, 2.0, 0.5]) == pytest.approx(32.0)
    assert crossover([1, 4], [8.0, 1.5]) is None
    assert crossover([1, 4, 16], [0.5, 2.0, 4.0]) == pytest.approx(2.0)


def test_a_bar_holds_at_its_shape_and_batch_only() -> None:
    large = bar_of("offline_over_raw", {"shape": "dream-0.1b", "batch": 16})
    small = bar_of("offline_over_raw", {"shape": "nano", "batch": 1})
    assert large is not None
    assert small is not None
    assert (large.met(1.1), large.met(1.11), small.met(1.25), small.met(1.26)) == (True, False, True, False)
    assert bar_of("offline_over_raw", {"shape": "nano", "batch": 16}) is None
    least = bar_of("tokens_per_s_vs_vllm", {"shape": "nano", "batch": 1})
    assert least is not None
    assert (least.met(3.0), least.met(2.9)) == (True, False)


def test_a_run_leaves_the_logs_of_its_process_alone(cache: Path, tmp_path: Path) -> None:
    logger = logging.getLogger("cdlm.scheduler.engine")
    assert speed(cache, tmp_path, "--comparison", "offline_over_raw").exit_code == 0
    assert logger.getEffectiveLevel() <= logging.WARNING
