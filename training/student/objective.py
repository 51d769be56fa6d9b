"""A student's loss on a batch; the LM head runs on asked positions only."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.attention import RowAttention
from cdlm.training.batches.packed import AskedRows
from cdlm.training.config import LossSection
from cdlm.training.pretraining.objectives import prediction_rows
from cdlm.training.student.losses import divergence, masked_likelihood
from cdlm.training.student.rows import StudentBatch


class AskedLogits(nn.Module):
    """A transformer with its LM head as one module: rows in, logits of asked positions out.

    One module, since FSDP gathers weights when a module is called.
    """

    def __init__(self, transformer: Transformer, *, shift: bool) -> None:
        super().__init__()
        self.transformer, self.shift = transformer, shift

    def forward(self, token_ids: Tensor, positions: Tensor, previous: Tensor, mask: Tensor, asked: Tensor) -> Tensor:
        """The fields of ``AskedRows`` -> logits of the asked positions [asked, vocab], in row-major order."""
        hidden = self.transformer(token_ids, positions, RowAttention(mask))
        return self.transformer.logits(prediction_rows(hidden, shift=self.shift, previous=previous)[asked])


class StudentObjective:
    """The weighted sum of the three losses (CDLM, arXiv 2511.19269).

    Args:
        student: an ``AskedLogits`` or a wrapper of one.
        teacher_head: [vocab, hidden_size], the teacher's LM head; copied, since the student's may train.
        weights: factors of the losses; 0 leaves a loss out, with the forward that only it needs.
    """

    def __init__(self, student: nn.Module, teacher_head: Tensor, weights: LossSection) -> None:
        self.student, self.weights = student, weights
        self.teacher_head = teacher_head.detach().clone()

    def __call__(self, batch: StudentBatch) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss, an fp32 scalar, and the unweighted losses."""
        losses: dict[str, Tensor] = {}
        if self.weights.distillation:
            teacher = nn.functional.linear(batch.teacher_hidden.to(self.teacher_head.dtype), self.teacher_head)
            losses["distillation"] = divergence(self._logits(batch.states), teacher)
        if self.weights.consistency:
            logits = self._logits(batch.state)
            # After y, not before: autocast keeps the weights it has cast, and those of a forward without gradient
            # would be used by the next one. Also with S empty: sharded ranks must call the student equally often.
            with torch.no_grad():
                completed = self._logits(replace(batch.state, token_ids=batch.completed))
            losses["consistency"] = divergence(logits, completed)
        if self.weights.dlm:
            losses["dlm"] = masked_likelihood(self._logits(batch.truth), batch.targets, batch.target_weights)
        total = sum((getattr(self.weights, name) * loss for name, loss in losses.items()), start=torch.tensor(0.0))
        return total, {name: float(loss.detach()) for name, loss in losses.items()}

    def _logits(self, rows: AskedRows) -> Tensor:
        logits: Tensor = self.student(rows.token_ids, rows.positions, rows.previous, rows.mask, rows.asked)
        return logits
