"""The figures that eval and bench report."""

import pytest

from cli.bench import Load
from cli.bench import summarise as summarise_load
from cli.completions import Completion
from cli.evaluate import Runs, is_right, summarise, wilson_interval
from training.data.mixture import draw_problems

USAGE = {"completion_tokens": 60, "forward_passes": 12, "denoise_steps": 10}


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I: 81/263 -> 0.2553 to 0.3662; 0/20 -> 0 to 0.1611.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_references_are_right_and_other_answers_wrong() -> None:
    words, other = draw_problems("words", 2, seed=0)
    assert is_right(words, words.completion)
    assert not is_right(words, "The answer is -5.")
    function = draw_problems("functions", 1, seed=0)[0]
    assert is_right(function, function.completion)
    assert not is_right(function, function.completion.split("\n")[0] + "\n    return object()")


def test_errors_count_as_wrong_and_are_reported() -> None:
    problems = draw_problems("words", 3, seed=0)
    runs = Runs()
    done = Completion(text="", usage=USAGE)
    runs.rows = [(problems[0], done, True), (problems[1], done, False), (problems[2], None, False)]
    runs.seconds = 2.0
    result = summarise(runs)
    assert result["score"] == pytest.approx(1 / 3)
    assert (result["n"], result["errors"]) == (3, 1)
    assert result["tokens_per_s"] == 60.0
    assert result["tokens_per_forward"] == 5.0


def test_load_figures() -> None:
    completions = [Completion(usage=USAGE, first_chunk=0.1 * i, latency=0.2 * i) for i in range(1, 5)]
    counters = {"cdlm_denoise_steps_per_block_sum": 40.0, "cdlm_denoise_steps_per_block_count": 8.0}
    figures = summarise_load(Load(completions, ["500: no"], 3.0, counters))
    assert figures["tokens_per_s"] == 80.0
    assert figures["ttft_p50_s"] == pytest.approx(0.25)
    assert figures["denoise_steps_per_block"] == 5.0
    assert figures["rows_per_forward"] is None
    assert figures["errors"] == 1


def test_a_load_without_answers_has_no_percentiles() -> None:
    figures = summarise_load(Load([], ["refused"], 1.0, {}))
    assert figures["latency_p99_s"] is None
    assert figures["tokens_per_s"] == 0.0
