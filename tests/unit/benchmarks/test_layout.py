"""The benchmark of a step's layout."""

from benchmarks.layout import BLOCK, measure, rows_of_a_step


def test_it_measures_rows_that_commit_and_rows_that_do_not() -> None:
    works = rows_of_a_step(6)
    assert [bool(work.clean) for work in works] == [True, False, False, True, False, False]
    assert all(work.tokens(BLOCK) in (BLOCK, 2 * BLOCK) for work in works)
    found = measure(6, "triton", repeats=3)
    assert 0 < found["least_ms"] <= found["median_ms"]
