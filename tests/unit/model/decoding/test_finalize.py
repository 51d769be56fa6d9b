import pytest
import torch
from torch import Tensor

from cdlm.model.decoding.finalize import choose, choose_by_threshold, choose_replaced, first_stop
from cdlm.model.decoding.logits.confidence import entropy
from cdlm.model.decoding.rules import RULES, RuleName
from tests.support.oracle.rules import pass_entropy_bound, pass_factor

THRESHOLD, FACTOR, ENTROPY_BOUND, FIXED_STEPS = range(4)


def limits(*values: float, rule: RuleName = "threshold", at_least: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rule, limit and at_least of rows that share a rule."""
    rules = torch.full((len(values),), RULES.index(rule))
    return rules, torch.tensor(values), torch.full((len(values),), at_least)


@pytest.mark.parametrize("seed", range(5))
def test_the_short_way_for_thresholds_chooses_the_same(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(7, 9, generator=generator) < 0.5
    masked[:, 4] = True
    # Few values, so that ties and equality with the limit occur.
    confidence = (torch.randint(1, 9, (7, 9), generator=generator) / 8.0) * masked
    rule, limit, _ = limits(*(torch.randint(1, 9, (7,), generator=generator) / 8.0).tolist())
    for count in (1, 2, 5, 12):
        expected = choose(confidence, masked, rule, limit, torch.full((7,), count))
        assert choose_by_threshold(confidence, limit, count).equal(expected), count
    at_least = torch.randint(1, 10, (7,), generator=generator)
    assert choose_by_threshold(confidence, limit, at_least).equal(choose(confidence, masked, rule, limit, at_least))
    rule[:3], limit[:3] = RULES.index("fixed_steps"), 4.0
    assert choose_by_threshold(confidence, limit, at_least).equal(choose(confidence, masked, rule, limit, at_least))


def test_a_decided_token_is_replaced_by_a_surer_other_one() -> None:
    """Not where the prediction is the token, the confidence is no more than the limit, or nothing is decided."""
    confidence = torch.tensor([[0.95, 0.95, 0.9, 0.95], [0.95, 0.95, 0.9, 0.95]])
    predicted, tokens = torch.tensor([[1, 2, 3, 4]] * 2), torch.tensor([[1, 9, 9, 9]] * 2)
    decided = torch.tensor([[True, True, True, False]] * 2)
    now = choose_replaced(confidence, predicted, tokens, decided, torch.tensor([0.9, float("inf")]))
    assert now.tolist() == [[False, True, False, False], [False] * 4]


def test_everything_above_the_threshold_passes() -> None:
    confidence = torch.tensor([[0.95, 0.2, 0.91, 0.5]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    now = choose(confidence, masked, *limits(0.9))
    assert now.tolist() == [[True, False, True, False]]


def test_the_surest_position_always_passes_and_only_it() -> None:
    confidence = torch.tensor([[0.3, 0.4, 0.4, 0.1]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    now = choose(confidence, masked, *limits(0.9))
    assert now.tolist() == [[False, True, False, False]]  # A tie goes to the left.


def test_confidence_equal_to_the_threshold_is_not_above_it() -> None:
    confidence = torch.tensor([[0.9, 0.95]])
    now = choose(confidence, torch.ones(1, 2, dtype=torch.bool), *limits(0.9))
    assert now.tolist() == [[False, True]]


def test_positions_with_a_token_never_change() -> None:
    confidence = torch.tensor([[0.99, 0.99, 0.99]])
    masked = torch.tensor([[False, True, False]])
    now = choose(confidence, masked, *limits(0.5, at_least=3))
    assert now.tolist() == [[False, True, False]]


def test_a_row_may_have_to_finalize_several() -> None:
    confidence = torch.tensor([[0.1, 0.3, 0.2, 0.05], [0.1, 0.3, 0.2, 0.05]])
    masked = torch.ones(2, 4, dtype=torch.bool)
    now = choose(confidence, masked, torch.tensor([0, 0]), torch.tensor([0.9, 0.9]), torch.tensor([2, 1]))
    assert now.tolist() == [[False, True, True, False], [False, True, False, False]]


def test_factor_walks_down_the_ranks_until_one_fails() -> None:
    # Rank n needs 1 - 1 / (n + 1): 0.5, 0.667, 0.75, 0.8. The last would pass as third, but comes after a failure.
    confidence = torch.tensor([[0.76, 0.7, 0.9, 0.79]])
    masked = torch.ones(1, 4, dtype=torch.bool)
    assert choose(confidence, masked, *limits(1.0, rule="factor")).tolist() == [[True, False, True, True]]
    confidence = torch.tensor([[0.6, 0.95, 0.61, 0.62]])
    assert choose(confidence, masked, *limits(1.0, rule="factor")).tolist() == [[False, True, False, False]]


def test_factor_equality_passes_and_the_surest_always_does() -> None:
    masked = torch.ones(1, 2, dtype=torch.bool)
    half = torch.tensor([[0.5, 0.5]])
    assert choose(half, masked, *limits(1.5, rule="factor")).tolist() == [[True, True]]  # 1 - 1.5 / 3 = 0.5
    assert choose(half, masked, *limits(0.01, rule="factor")).tolist() == [[True, False]]


def test_entropy_bound_spends_all_but_the_largest() -> None:
    confidence = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))  # Without influence.
    masked = torch.ones(1, 4, dtype=torch.bool)
    entropies = torch.tensor([[2.0, 0.25, 0.125, 0.5]])

    def chosen(bound: float) -> list[bool]:
        rows = choose(confidence, masked, *limits(bound, rule="entropy_bound"), entropies)
        row: list[bool] = rows[0].tolist()
        return row

    assert chosen(0.0) == [False, False, True, False]
    assert chosen(0.125) == [False, True, True, False]
    assert chosen(0.374) == [False, True, True, False]
    assert chosen(0.375) == [False, True, True, True]
    assert chosen(0.875) == [True, True, True, True]


def test_the_most_steps_a_block_may_take_hold_for_the_entropy_rule_too() -> None:
    masked = torch.tensor([[True, True, True, False]])
    entropies = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    now = choose(1 - entropies, masked, *limits(0.0, rule="entropy_bound", at_least=2), entropies)
    assert now.tolist() == [[False, True, True, False]]


def test_fixed_steps_takes_the_surest_and_no_more_however_sure() -> None:
    confidence = torch.tensor([[1.0, 0.2, 1.0, 0.7]])
    masked = torch.tensor([[True, True, True, True]])
    now = choose(confidence, masked, *limits(4.0, rule="fixed_steps"))
    assert now.tolist() == [[True, False, False, False]]
    now = choose(confidence, masked, *limits(2.0, rule="fixed_steps", at_least=3))
    assert now.tolist() == [[True, False, True, True]]
    entropies = torch.tensor([[5.0, 0.0, 5.0, 5.0]])  # Looked at for other rows of the batch only.
    assert choose(confidence, masked, *limits(4.0, rule="fixed_steps"), entropies)[0].tolist() == [True] + [False] * 3


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_different_rules_equal_each_alone_and_the_plain_reference(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(6, 9, 11, generator=generator)
    masked = torch.rand(6, 9, generator=generator) < 0.7
    confidence, entropies = logits.softmax(-1).amax(-1), entropy(logits.flatten(0, 1)).view(6, 9)
    rule = torch.tensor([THRESHOLD, FACTOR, ENTROPY_BOUND] * 2)
    limit = torch.tensor([0.8, 1.0, 0.3, 0.5, 2.0, 3.0])
    now = choose(confidence, masked, rule, limit, torch.ones(6, dtype=torch.long), entropies)
    sizes = set()
    for row in range(6):
        sure = {i: float(confidence[row, i]) for i in range(9) if masked[row, i]}
        unsure = {i: float(entropies[row, i]) for i in sure}
        bound = float(limit[row])
        expected = (
            {i for i, value in sure.items() if value > bound or value == max(sure.values())},
            set(pass_factor(sure, bound)),
            set(pass_entropy_bound(unsure, bound)),
        )[int(rule[row])]
        assert set(now[row].nonzero()[:, 0].tolist()) == expected
        sizes.add(len(expected))
    assert len(sizes) > 2
    without = choose(confidence[:2], masked[:2], rule[:2], limit[:2], torch.ones(2, dtype=torch.long))
    assert without.equal(now[:2])


def test_the_guide_lets_the_first_masked_positions_through_however_sure_others_are() -> None:
    confidence = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.3]] * 5)
    masked = torch.tensor([[False, True, True, False, True]] * 4 + [[True] * 5])
    rule = torch.tensor([RULES.index("guide")] * 4 + [RULES.index("threshold")])
    limit, at_least = torch.tensor([0.0] * 4 + [0.85]), torch.tensor([1, 1, 1, 2, 1])
    leading = torch.tensor([1, 2, 4, 1, 4])
    now = choose(confidence, masked, rule, limit, at_least, leading=leading)
    found = [row.nonzero()[:, 0].tolist() for row in now]
    assert found == [[1], [1, 2], [1, 2, 4], [1, 2], [1]]


def test_stop_is_found_among_generated_finalized_positions_only() -> None:
    tokens = torch.tensor([[9, 9, 5, 9], [9, 5, 5, 5], [5, 5, 9, 5]])
    masked = torch.tensor([[False] * 4, [False] * 4, [False, False, True, False]])
    first = torch.tensor([2, 0, 0])
    stops = torch.tensor([[9, -1], [9, 7], [9, -1]])
    assert first_stop(tokens, stops, first, masked).tolist() == [3, 0, 4]
