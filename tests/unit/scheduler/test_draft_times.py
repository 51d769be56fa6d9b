"""The rows of a step are those that write most tokens per second, by the measured times of steps."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from cdlm.scheduler.steps.draft_times import SIZES, RowChoice

Seconds = Callable[[int, int], float]  # Of a number of requests and of rows of each.


def tokens(rows: int) -> float:
    """Expected tokens per forward, as those of a text whose drafts agree well."""
    return {1: 1.0, 4: 1.6, 6: 2.0, 8: 2.3, 12: 2.6, 16: 2.8, 24: 2.9, 32: 2.95}[rows]


def serve(
    choice: RowChoice, steps: int, seconds: Seconds, requests: int = 1, expected: Callable[[int], float] = tokens
) -> Counter[int]:
    """How many of the steps had how many rows per request."""
    found: Counter[int] = Counter()
    for _ in range(steps):
        rows = choice.choose(requests, SIZES, expected)
        choice.took(seconds(requests, rows))
        found[rows] += 1
    return found


@pytest.mark.parametrize("per_row", [0.0, 0.005, 0.02, 0.1, 1.0])
def test_speed_is_nearly_that_of_the_best_rows(per_row: float) -> None:
    def seconds(requests: int, rows: int) -> float:
        return 0.03 * (1 + per_row * (requests * rows - 1))

    found = serve(RowChoice(), 2000, seconds)
    written = sum(tokens(rows) * count for rows, count in found.items())
    taken = sum(seconds(1, rows) * count for rows, count in found.items())
    assert written / taken > (0.9 if per_row == 1 else 0.95) * max(tokens(rows) / seconds(1, rows) for rows in SIZES)


def test_every_number_of_requests_is_measured_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    choice = RowChoice()

    def seconds(requests: int, rows: int) -> float:
        return 0.03 * max(1.0, requests * rows / 16)  # Sixteen rows are free.

    assert serve(choice, 300, seconds, requests=1).most_common(1)[0][0] == 16
    assert serve(choice, 300, seconds, requests=4).most_common(1)[0][0] == 4
    assert serve(choice, 300, seconds, requests=16).most_common(1)[0][0] == 1
    assert [record.getMessage() for record in caplog.records] == [
        "requests at a time: 1; rows of each that write most tokens per second: 16",
        "requests at a time: 4; rows of each that write most tokens per second: 4",
        "requests at a time: 16; rows of each that write most tokens per second: 1 (nothing is drafted)",
    ]


def test_steps_that_become_slower_are_left_and_found_again() -> None:
    choice = RowChoice()
    cheap: Seconds = lambda _, rows: 0.03 + 0.00001 * rows  # noqa: E731
    dear: Seconds = lambda _, rows: 0.03 * rows  # noqa: E731
    assert serve(choice, 200, cheap).most_common(1)[0][0] == 32
    assert serve(choice, 200, dear).most_common(1)[0][0] == 1
    serve(choice, 800, cheap)
    assert serve(choice, 200, cheap).most_common(1)[0][0] == 32


def test_without_drafts_some_steps_still_draft_since_texts_change() -> None:
    choice = RowChoice()
    dear: Seconds = lambda _, rows: 0.03 + 0.006 * rows  # noqa: E731

    def hard(rows: int) -> float:
        return 1 + 0.2 * (tokens(rows) - 1)

    serve(choice, 100, dear, expected=hard)
    found = serve(choice, 1000, dear, expected=hard)
    assert 0.02 < 1 - found[1] / 1000 < 0.15
    assert serve(choice, 100, dear).most_common(1)[0][0] > 1  # The drafts of the next text agree.


def test_noise_costs_little() -> None:
    rng = random.Random(0)
    written = taken = 0.0
    choice = RowChoice()
    for _ in range(3000):
        rows = choice.choose(1, SIZES, tokens)
        quiet = 0.03 + 0.0006 * rows
        choice.took(quiet * (3.0 if rng.random() < 0.1 else rng.uniform(0.95, 1.1)))
        written, taken = written + tokens(rows), taken + quiet
    assert written / taken > 0.95 * max(tokens(rows) / (0.03 + 0.0006 * rows) for rows in SIZES)


def test_one_size_is_taken_without_measuring() -> None:
    choice = RowChoice()
    assert [choice.choose(9, [1], tokens) for _ in range(200)] == [1] * 200


def test_times_of_other_steps_do_not_count() -> None:
    """Of steps that had other work, and of steps for which no rows were chosen."""
    choice = RowChoice()
    sizes = (1, 4)
    for _ in range(20):
        assert choice.choose(1, sizes, tokens) == 1  # It is not measured yet.
        choice.took(None)
        choice.took(9.0)
    assert serve(choice, 200, lambda _, rows: 0.03 * rows).most_common(1)[0][0] == 1
