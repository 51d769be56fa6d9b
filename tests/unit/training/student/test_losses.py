"""The student's losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from cdlm.training.student.losses import divergence, masked_likelihood


def logits(*rows: tuple[float, ...]) -> Tensor:
    """Logits of the given probabilities, off by a constant that a softmax does not see."""
    return torch.tensor(rows).log() + 3.0


# KL of (3/4, 1/4) and of (1, 0) from the uniform distribution.
QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_distillation_is_the_mean_over_u_of_kl_from_teacher_to_student() -> None:
    student = logits((0.5, 0.5), (0.25, 0.75))
    teacher = logits((0.75, 0.25), (0.25, 0.75))
    assert divergence(student, teacher) == pytest.approx(QUARTERS / 2)


def test_distillation_measures_from_the_teacher_not_from_the_student() -> None:
    value = divergence(logits((0.75, 0.25)), logits((0.5, 0.5)))
    assert value == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert value != pytest.approx(QUARTERS)


def test_equal_distributions_cost_nothing() -> None:
    student = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert divergence(student, student + 2.0) == pytest.approx(0.0, abs=1e-6)


def test_consistency_pulls_the_state_and_never_the_completed_state() -> None:
    student = logits((0.5, 0.5)).requires_grad_()
    completed = logits((0.75, 0.25)).requires_grad_()
    loss = divergence(student, completed)
    assert loss.item() == pytest.approx(QUARTERS)
    loss.backward()
    assert completed.grad is None
    assert student.grad is not None
    # d KL / d logits = student - target.
    torch.testing.assert_close(student.grad, torch.tensor([[-0.25, 0.25]]))


def test_consistency_without_remaining_positions_is_zero_and_still_has_a_gradient() -> None:
    states = torch.randn(3, 4, requires_grad=True)
    loss = divergence(states[torch.zeros(3, dtype=torch.bool)], torch.empty(0, 4))
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(states.grad, torch.zeros(3, 4))


def test_masked_likelihood_is_the_weighted_sum_of_surprises() -> None:
    guesses = logits((0.5, 0.5), (0.25, 0.75), (0.125, 0.875))
    loss = masked_likelihood(guesses, torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.25, 2.0]))
    assert loss == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(4) - 2.0 * math.log(0.875))


def test_losses_of_half_precision_logits_are_computed_in_fp32() -> None:
    half = torch.randn(4, 6).bfloat16()
    other = torch.randn(4, 6).bfloat16()
    exact = divergence(half.float(), other.float())
    assert divergence(half, other).dtype == torch.float32
    torch.testing.assert_close(divergence(half, other), exact, rtol=0, atol=0)
