"""The three losses of a student (CDLM, arXiv 2511.19269): pure functions of logits.

A row is decoded up to a state y; y* is the state in which y's active block has just been completed. U are the
positions masked in y and filled in y*, S those masked in both. "Mean" is over all such positions of the batch,
whichever row they lie in. Log-probabilities are fp32 and are taken at the selected positions only.
"""

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def divergence(student_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Mean over rows of KL(target || student).

    Distillation from the step that finalized each position is 1/|U| * sum over U of KL(teacher || student(y)), the
    teacher's logits being lm_head(stored hidden state). Consistency with the state after the block is complete is
    1/|S| * sum over S of KL(student(y*) || student(y)).

    Args:
        student_logits: [n, vocab] of state y.
        target_logits: [n, vocab], at the same positions.

    Returns:
        fp32 scalar, 0 for n = 0; no gradient reaches ``target_logits``.
    """
    target, student = target_logits.detach().float().log_softmax(-1), student_logits.float().log_softmax(-1)
    return kl_div(student, target, reduction="sum", log_target=True) / max(1, len(student))


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
