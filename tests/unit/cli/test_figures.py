"""The figures that eval and bench report."""

import statistics
from itertools import pairwise

import pytest

from cdlm.cli.bench.client import Completion
from cdlm.cli.bench.figures import summarize as summarize_load
from cdlm.cli.bench.load import Attempt, Load, poisson_arrivals
from cdlm.cli.eval.command import Runs, summarize, wilson_interval
from cdlm.cli.eval.sets import is_right
from cdlm.training.data.mixture import draw_problems

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
    result = summarize(runs)
    assert result["score"] == pytest.approx(1 / 3)
    assert (result["n"], result["errors"]) == (3, 1)
    assert result["tokens_per_s"] == 60.0
    assert result["tokens_per_forward"] == 5.0


def test_load_figures() -> None:
    usage = USAGE | {"prompt_tokens": 10}
    attempts = [
        Attempt(
            due=0.0, sent=0.1 * i, over=0.1 * i + 2.0,
            done=Completion(usage=usage, chunks=[0.1 * i, 0.1 * i + 0.5], latency=0.1 * i + 0.59),
        )
        for i in range(1, 5)
    ]  # fmt: skip
    attempts.append(Attempt(due=2.0, sent=2.2, over=2.25, error="500: no"))
    counters = {"cdlm_denoise_steps_per_block_sum": 40.0, "cdlm_denoise_steps_per_block_count": 8.0}
    figures = summarize_load(Load(attempts, 3.0, counters))
    assert (figures["completed"], figures["failed"], figures["error_counts"]) == (4, 1, {"500: no": 1})
    assert (figures["total_input_tokens"], figures["total_output_tokens"]) == (40, 240)
    assert figures["output_throughput"] == 80.0
    assert figures["total_token_throughput"] == pytest.approx(280 / 3)
    assert figures["request_throughput"] == pytest.approx(4 / 3)
    assert figures["p50_ttft_ms"] == figures["median_ttft_ms"] == pytest.approx(250)
    assert figures["p90_ttft_ms"] == pytest.approx(370)
    assert figures["mean_itl_ms"] == pytest.approx(500)
    assert figures["mean_tpot_ms"] == pytest.approx(10)
    assert figures["mean_e2el_ms"] == pytest.approx(840)
    assert figures["max_concurrent_requests"] == 4  # The first is over before the last is sent.
    assert figures["max_send_lag_ms"] == pytest.approx(400)
    assert figures["denoise_steps_per_block"] == 5.0
    assert figures["tokens_per_forward_of_a_request"] == 5.0
    assert figures["rows_per_forward"] is None


def test_a_load_without_answers_has_no_percentiles() -> None:
    figures = summarize_load(Load([Attempt(0.0, 0.0, 1.0, error="refused")], 1.0))
    assert figures["p99_e2el_ms"] is figures["mean_ttft_ms"] is figures["total_input_tokens"] is None
    assert figures["output_throughput"] == 0.0


def test_arrivals_are_poisson_and_follow_the_seed() -> None:
    arrivals = poisson_arrivals(4000, 20.0, seed=1)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *arrivals])]
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 20, rel=0.05)  # As long as the mean: exponential.
    assert poisson_arrivals(4000, 20.0, seed=1) == arrivals
    assert poisson_arrivals(4000, 20.0, seed=2) != arrivals
    assert poisson_arrivals(3, float("inf"), seed=1) == [0.0] * 3
