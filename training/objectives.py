"""What the first two stages minimise: cross-entropy at the asked positions."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.transformer import Transformer
from training.rows import RowBatch


def prediction_rows(hidden: Tensor, *, shift: bool) -> Tensor:
    """hidden [rows, L, d] -> [rows, L, d]: the state that predicts each position.

    With ``shift`` that is the state before it; nothing predicts position 0 then, and it keeps its own.
    """
    return torch.cat((hidden[:, :1], hidden[:, :-1]), dim=1) if shift else hidden


def token_loss(model: Transformer, batch: RowBatch, *, shift: bool) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy over the asked positions, and the share of them predicted right (detached)."""
    hidden = model(batch.token_ids, batch.positions, batch.attention)
    asked = batch.targets >= 0
    logits = model.logits(prediction_rows(hidden, shift=shift)[asked]).float()  # [asked, vocab]
    targets = batch.targets[asked]
    weights = batch.weights[asked]
    accuracy = (logits.detach().argmax(-1) == targets).float().mean()
    losses = cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6), accuracy
