"""The loss of the first two stages: cross-entropy at the asked positions."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cdlm.model.network.transformer import Transformer
from cdlm.training.batches.rows import RowBatch


def prediction_rows(hidden: Tensor, *, shift: bool, previous: Tensor | None = None) -> Tensor:
    """Selects the state that predicts each position: hidden [rows, L, d] -> [rows, L, d].

    With ``shift`` it is the state at ``previous`` ([rows, L] int64), by default the index before; index 0, which no
    state predicts, keeps its own.
    """
    if shift and previous is not None:
        return hidden.gather(1, previous[..., None].expand(-1, -1, hidden.shape[-1]))
    return torch.cat((hidden[:, :1], hidden[:, :-1]), dim=1) if shift else hidden


def token_loss(model: Transformer, batch: RowBatch, *, shift: bool) -> tuple[Tensor, Tensor]:
    """Returns the weighted mean cross-entropy over asked positions, and their accuracy (detached); fp32 scalars."""
    hidden = model(batch.token_ids, batch.positions, batch.attention)
    asked = batch.targets >= 0
    states = prediction_rows(hidden, shift=shift, previous=batch.previous)[asked]
    logits = model.logits(states).float()  # [asked, vocab]
    targets = batch.targets[asked]
    weights = batch.weights[asked]
    accuracy = (logits.detach().argmax(-1) == targets).float().mean()
    losses = cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp_min(1e-6), accuracy
