"""Rows are given to candidates and masked rows by what they add."""

import itertools

import pytest

from cdlm.scheduler.steps.drafts import Agreement, choose_rows

WINDOW = 3


def gain(shares: list[float], behind: list[int]) -> float:
    """Tokens that a plan adds to this step and the next, from the definition."""
    reach = [1.0]
    for share in shares:
        reach.append(reach[-1] * share)
    total = sum(reach[1 : len(behind)])
    for place, rows in enumerate(behind):
        last = reach[place] * (1 - shares[place]) if place + 1 < len(behind) else reach[place]
        total += last * sum(reach[1 : rows + 1])
    return total


@pytest.mark.parametrize("shares", [[0.9, 0.6, 0.5], [0.6, 0.6, 0.6], [0.3, 0.5, 0.9]])
@pytest.mark.parametrize(("candidates", "rows"), list(itertools.product((0, 1, 3), (2, 5, 9))))
def test_no_other_plan_of_as_many_rows_gains_more(shares: list[float], candidates: int, rows: int) -> None:
    chosen = choose_rows(shares, candidates, WINDOW, rows)
    assert len(chosen) - 1 + sum(chosen) <= rows
    others = (
        list(behind)
        for count in range(min(candidates, rows) + 1)
        for behind in itertools.product(range(WINDOW + 1), repeat=count + 1)
        if sum(behind) <= rows - count
    )
    # Rows that gain next to nothing are left out.
    assert gain(shares, chosen) >= max(gain(shares, other) for other in others) - 0.03 * rows


def test_rows_that_gain_next_to_nothing_are_not_taken() -> None:
    assert choose_rows([0.01, 0.01, 0.01], 3, WINDOW, 20) == [0]
    assert sum(choose_rows([1.0, 1.0, 1.0], 3, WINDOW, 100)) == WINDOW  # Only the last candidate can be the last.


def test_agreement_follows_the_last_verifications() -> None:
    agreement = Agreement(WINDOW)
    for _ in range(3000):
        agreement.count(3, 1)
    first, second, third = agreement.shares()
    assert first > 0.99
    assert second == pytest.approx(0.1)  # Drafts go on being tried.
    assert third == pytest.approx(0.6)  # It was never reached.
