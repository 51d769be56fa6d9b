"""The three losses of a student (CDLM, arXiv 2511.19269): pure functions of logits.

A row is decoded up to a state y; y* is the state in which y's active block has just been completed. U are the
positions masked in y and filled in y*, S those masked in both. "Mean" is over all such positions of the batch,
whichever row they lie in. Log-probabilities are fp32 and are taken at the selected positions only.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def _divergence(target: Tensor, student: Tensor) -> Tensor:
    """Mean over rows of KL(target || student) of two [n, vocab] logits, fp32 scalar; 0 for n = 0."""
    target, student = target.float().log_softmax(-1), student.float().log_softmax(-1)
    return kl_div(student, target, reduction="sum", log_target=True) / max(1, len(student))


def distillation(student_logits: Tensor, teacher_logits: Tensor, undecided: Tensor) -> Tensor:
    """What the teacher knew at the step that finalised a position: 1/|U| * sum over U of KL(teacher || student(y)).

    Args:
        student_logits: [..., vocab] of state y.
        teacher_logits: [|U|, vocab], lm_head(stored hidden state) of the positions in U, in their order.
        undecided: [...] bool, U.

    Returns:
        fp32 scalar, 0 where U is empty; no gradient reaches ``teacher_logits``.
    """
    return _divergence(teacher_logits.detach(), student_logits[undecided])


def consistency(student_logits: Tensor, completed_logits: Tensor, remaining: Tensor) -> Tensor:
    """What the student itself says once the block is complete: 1/|S| * sum over S of KL(student(y*) || student(y)).

    Args:
        student_logits: [..., vocab] of state y.
        completed_logits: [|S|, vocab] of state y*, at the positions in S, in their order.
        remaining: [...] bool, S.

    Returns:
        fp32 scalar, 0 where S is empty; no gradient reaches ``completed_logits``.
    """
    return _divergence(completed_logits.detach(), student_logits[remaining])


def masked_likelihood(logits: Tensor, truth: Tensor, rows: Tensor, ratios: Tensor, lengths: Tensor) -> Tensor:
    """The masked-diffusion bound on the ground truth: mean over rows of 1/(t Lg) * sum over masked of -log p(truth).

    Args:
        logits: [masked, vocab] at the masked positions.
        truth: [masked] int64, their ids.
        rows: [masked] int64, the row each of them lies in.
        ratios: [rows] fp32, t: the probability with which each position of the row was masked.
        lengths: [rows], Lg: positions of the row's canvas.

    Returns:
        fp32 scalar.
    """
    surprise = cross_entropy(logits.float(), truth, reduction="none")
    per_row = torch.zeros_like(ratios).index_add(0, rows, surprise)
    return (per_row / (ratios * lengths)).mean()
