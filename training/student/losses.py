"""The three losses of a student (CDLM, arXiv 2511.19269): pure functions of logits.

A row is decoded up to a state y; y* is the state in which y's active block has just been completed. U are the
positions masked in y and filled in y*, S those masked in both. "Mean" is over all such positions of the batch,
whichever row they lie in. Log-probabilities are fp32 and are taken at the selected positions only.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def _divergence(target: Tensor, student: Tensor) -> Tensor:
    """Mean over rows of KL(target || student) of two [n, vocab] logits, fp32 scalar; 0 for n = 0."""
    target, student = target.float().log_softmax(-1), student.float().log_softmax(-1)
    return kl_div(student, target, reduction="sum", log_target=True) / max(1, len(student))


def distillation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Distillation from the step that finalized each position: 1/|U| * sum over U of KL(teacher || student(y)).

    Args:
        student_logits: [|U|, vocab] of state y.
        teacher_logits: [|U|, vocab], lm_head(stored hidden state) of the same positions.

    Returns:
        fp32 scalar, 0 where U is empty; no gradient reaches ``teacher_logits``.
    """
    return _divergence(teacher_logits.detach(), student_logits)


def consistency(student_logits: Tensor, completed_logits: Tensor) -> Tensor:
    """Consistency with the state after the block is complete: 1/|S| * sum over S of KL(student(y*) || student(y)).

    Args:
        student_logits: [|S|, vocab] of state y.
        completed_logits: [|S|, vocab] of state y*, at the same positions.

    Returns:
        fp32 scalar, 0 where S is empty; no gradient reaches ``completed_logits``.
    """
    return _divergence(completed_logits.detach(), student_logits)


def masked_likelihood(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The masked-diffusion bound on the ground truth: sum over masked of -log p(truth) / (t Lg), mean over rows.

    Args:
        logits: [masked, vocab] at the masked positions.
        truth: [masked] int64, their ids.
        weights: [masked] fp32, 1 / (t Lg) of each, divided by the number of rows; t is the probability with which a
            position of its block was masked, Lg the positions of its canvas.

    Returns:
        fp32 scalar.
    """
    return (cross_entropy(logits.float(), truth, reduction="none") * weights).sum()
