"""The student's losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from training.student.losses import consistency, distillation, masked_likelihood


def logits(*rows: tuple[float, ...]) -> Tensor:
    """Logits of the given probabilities, off by a constant that a softmax does not see."""
    return torch.tensor(rows).log() + 3.0


# KL of (3/4, 1/4) and of (1, 0) from the uniform distribution.
QUARTERS = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_distillation_is_the_mean_over_u_of_kl_from_teacher_to_student() -> None:
    student = logits((0.5, 0.5), (0.9, 0.1), (0.25, 0.75))[None]  # [1 row, 3 positions, 2 tokens]
    teacher = logits((0.75, 0.25), (0.25, 0.75))
    undecided = torch.tensor([[True, False, True]])
    assert distillation(student, teacher, undecided) == pytest.approx(QUARTERS / 2)


def test_distillation_measures_from_the_teacher_not_from_the_student() -> None:
    value = distillation(logits((0.75, 0.25)), logits((0.5, 0.5)), torch.tensor([True]))
    assert value == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert value != pytest.approx(QUARTERS)


def test_the_mean_counts_positions_not_rows() -> None:
    student = logits((0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5)).view(2, 2, 2)
    undecided = torch.tensor([[True, True], [True, False]])
    teacher = logits((0.75, 0.25), (0.5, 0.5), (0.5, 0.5))
    assert distillation(student, teacher, undecided) == pytest.approx(QUARTERS / 3)


@pytest.mark.parametrize("loss", [distillation, consistency])
def test_equal_distributions_cost_nothing(loss) -> None:
    student = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert loss(student, student + 2.0, torch.ones(5, dtype=torch.bool)) == pytest.approx(0.0, abs=1e-6)


def test_consistency_pulls_the_state_and_never_the_completed_state() -> None:
    student = logits((0.5, 0.5), (0.5, 0.5)).requires_grad_()
    completed = logits((0.75, 0.25)).requires_grad_()
    loss = consistency(student, completed, torch.tensor([False, True]))
    assert loss.item() == pytest.approx(QUARTERS)
    loss.backward()
    assert completed.grad is None
    assert student.grad is not None
    # d KL / d logits = student - target.
    torch.testing.assert_close(student.grad, torch.tensor([[0.0, 0.0], [-0.25, 0.25]]))


def test_consistency_without_remaining_positions_is_zero_and_still_has_a_gradient() -> None:
    student = torch.randn(3, 4, requires_grad=True)
    loss = consistency(student, torch.empty(0, 4), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(student.grad, torch.zeros(3, 4))


def test_masked_likelihood_divides_by_ratio_and_canvas_and_averages_rows() -> None:
    guesses = logits((0.5, 0.5), (0.25, 0.75), (0.125, 0.875))
    truth, rows = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1])
    loss = masked_likelihood(guesses, truth, rows, torch.tensor([0.5, 0.25]), torch.tensor([4, 8]))
    first = (math.log(2) + math.log(4)) / (0.5 * 4)
    second = math.log(8) / (0.25 * 8)
    assert loss == pytest.approx((first + second) / 2)


def test_the_masked_likelihood_of_a_uniform_model_does_not_depend_on_the_ratio() -> None:
    """1/t makes up for the share that was masked: t * Lg masks of ln(vocab) each cost ln(vocab) at any t."""
    for masked, ratio in ((2, 0.25), (4, 0.5), (8, 1.0)):
        rows = torch.zeros(masked, dtype=torch.int64)
        loss = masked_likelihood(
            torch.zeros(masked, 5), torch.arange(masked) % 5, rows, torch.tensor([ratio]), torch.tensor([8])
        )
        assert loss == pytest.approx(math.log(5))


def test_losses_of_half_precision_logits_are_computed_in_fp32() -> None:
    half, mask = torch.randn(4, 6).bfloat16(), torch.ones(4, dtype=torch.bool)
    other = torch.randn(4, 6).bfloat16()
    exact = distillation(half.float(), other.float(), mask)
    assert distillation(half, other, mask).dtype == torch.float32
    torch.testing.assert_close(distillation(half, other, mask), exact, rtol=0, atol=0)
