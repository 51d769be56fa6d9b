"""Rows are given to candidates and masked rows by what they add."""

import itertools
import random
from pathlib import Path

import pytest
import torch

from cdlm.model.device import multiplies_bfloat16, resolve_dtype
from cdlm.scheduler.steps.draft_rows import choose_rows, tokens_per_forward
from cdlm.scheduler.steps.drafts import Agreement
from tests.support.drafts import build_draft_adapter, drafting_engine
from tests.support.models.checkpoints import build_checkpoint

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


@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("rows", range(2, 16))
def test_rows_in_front_of_groups_count(rows: int, lead: int) -> None:
    chosen = choose_rows([0.9, 0.7, 0.5], 3, WINDOW, rows, lead)
    taken = len(chosen) - 1 + sum(length + lead for length in chosen if length)
    assert taken <= rows
    assert rows - taken <= lead or all(length == WINDOW for length in chosen)  # What is left makes no group.
    assert choose_rows([0.9, 0.7, 0.5], 0, WINDOW, rows, lead) == [min(WINDOW, max(0, rows - lead))]


def test_rows_that_gain_next_to_nothing_are_not_taken() -> None:
    assert choose_rows([0.01, 0.01, 0.01], 3, WINDOW, 20) == [0]
    assert sum(choose_rows([1.0, 1.0, 1.0], 3, WINDOW, 100)) == WINDOW  # Only the last candidate can be the last.


def test_agreement_follows_the_last_verifications() -> None:
    agreement = Agreement([0.6] * WINDOW, weight=20.0, memory=500.0)
    for _ in range(3000):
        agreement.count(3, 1)
    first, second, third = agreement.shares()
    assert first > 0.99
    assert second == pytest.approx(0.1)  # Drafts go on being tried.
    assert third == pytest.approx(0.6)  # It was never reached.


@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("rows", [4, 6, 12, 32])
@pytest.mark.parametrize("shares", [[0.9, 0.6, 0.5], [0.4, 0.4, 0.3], [0.97, 0.95, 0.9]])
def test_expected_tokens_are_those_of_simulated_forwards(shares: list[float], rows: int, lead: int) -> None:
    rng, drafts, decided, forwards = random.Random(rows), 0, 0, 20_000
    for _ in range(forwards):
        plan = choose_rows(shares, drafts, WINDOW, rows - 1, lead)
        accepted = 0
        while accepted < len(plan) - 1 and rng.random() < shares[accepted]:
            accepted += 1
        drafts, decided = plan[accepted], decided + accepted + 1
    assert tokens_per_forward(shares, WINDOW, rows, lead) == pytest.approx(decided / forwards, rel=0.03)


def test_rows_that_were_asked_for_are_shared_without_measuring(tmp_path: Path) -> None:
    base = build_checkpoint(tmp_path / "base", "autoregressive_without_mask")
    adapter = build_draft_adapter(tmp_path / "drafts", base)
    asked, measured = (drafting_engine(base, adapter, draft_rows=rows).scheduler.drafts for rows in (8, None))
    assert asked is not None
    assert measured is not None
    assert (asked.rows, asked.measures) == (8, False)
    assert (measured.rows, measured.measures) == (32, True)


def test_by_itself_a_model_that_drafts_computes_in_bfloat16_where_the_cpu_has_units_for_it() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype("auto", cpu) == torch.float32
    assert resolve_dtype("auto", cpu, drafts=True) == (torch.bfloat16 if multiplies_bfloat16() else torch.float32)
    assert resolve_dtype("float32", cpu, drafts=True) == torch.float32
