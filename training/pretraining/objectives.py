"""What the first two stages minimise: cross-entropy at the asked positions."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.rows import RowBatch


def prediction_rows(hidden: Tensor, *, shift: bool, previous: Tensor | None = None) -> Tensor:
    """hidden [rows, L, d] -> [rows, L, d]: the state that predicts each position.

    With ``shift`` that is the state before it, at the index ``previous`` ([rows, L] int64) where that is given; nothing
    predicts position 0 else, and it keeps its own.
    """
    if shift and previous is not None:
        return hidden.gather(1, previous[..., None].expand(-1, -1, hidden.shape[-1]))
    return torch.cat((hidden[:, :1], hidden[:, :-1]), dim=1) if shift else hidden


def token_loss(model: Transformer, batch: RowBatch, *, shift: bool) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy over the asked positions, and the share of them predicted right (detached)."""
    hidden = model(batch.token_ids, batch.positions, batch.attention)
    asked = batch.targets >= 0
    states = prediction_rows(hidden, shift=shift, previous=batch.previous)[asked]
    logits = model.logits(states).float()  # [asked, vocab]
    targets = batch.targets[asked]
    weights = batch.weights[asked]
    accuracy = (logits.detach().argmax(-1) == targets).float().mean()
    losses = cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6), accuracy
