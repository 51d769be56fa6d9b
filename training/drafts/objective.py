"""The loss of a draft adapter; the losses have the names of CDLM's (arXiv 2511.19269)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear, nll_loss

from cdlm.model.network.chain import Chain
from cdlm.model.network.transformer import Transformer
from cdlm.training.backbone.lora import without_adapter
from cdlm.training.batches.attention import causal_mask
from cdlm.training.config import LossSection
from cdlm.training.drafts.attention import ContinuedAttention, KeepingAttention
from cdlm.training.drafts.rows import DraftRows


@dataclass(frozen=True, slots=True)
class Drafted:
    """Logits of the asked masked rows [asked, vocab], and those of the unmasked rows at the same positions."""

    logits: Tensor
    verified: Tensor


class DraftObjective:
    """The weighted sum of three losses; each is a mean over asked masked rows, weighted by the offset in the window.

    - Distillation: KL(unmasked row || masked row) at the same position. The unmasked row has seen the tokens between.
    - Consistency: KL(y* || y), y* the row of a pair's second group, where more tokens are known, without gradient, and
      y the row of the first group at the same position.
    - Masked likelihood (dlm): cross-entropy with the text.

    The adapter does not touch unmasked rows, so they are computed first, without it and without gradients, and masked
    rows attend to the keys and values that are left: half the work of one forward of both, and the same numbers.

    Args:
        transformer: a next-token model with one adapter.
        mask_id: id of the token that masked rows are embedded as.
        offset_decay: factor of the weight from one offset to the next.
        chain: changes the logits of masked rows by the text's token in front of what they draft; may be ``None``.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        mask_id: int,
        weights: LossSection,
        offset_decay: float,
        chain: Chain | None = None,
    ) -> None:
        self.transformer, self.mask_id, self.weights, self.offset_decay = transformer, mask_id, weights, offset_decay
        self.chain = chain

    def __call__(self, rows: DraftRows) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss, an fp32 scalar, the unweighted losses, and the agreement by offset."""
        drafted, asked = self.draft(rows), rows.asked
        decay = (self.offset_decay ** torch.arange(rows.window)).expand(asked.shape)
        weights, student = decay[asked], drafted.logits.float().log_softmax(-1)
        losses: dict[str, Tensor] = {}
        if self.weights.distillation:
            teacher = drafted.verified.float().log_softmax(-1)
            losses["distillation"] = _mean(_divergence(teacher, student), weights)
        if self.weights.consistency:
            first, second = (_among(asked, index) for index in rows.pairs())
            losses["consistency"] = _mean(_divergence(student[second].detach(), student[first]), weights[first])
        if self.weights.dlm:
            targets = _next_tokens(rows)[asked]
            losses["dlm"] = _mean(nll_loss(student, targets, reduction="none"), weights)
        total = sum((getattr(self.weights, name) * loss for name, loss in losses.items()), start=torch.tensor(0.0))
        figures = {name: float(loss.detach()) for name, loss in losses.items()}
        return total, {**figures, **agreement(drafted, rows)}

    def draft(self, rows: DraftRows) -> Drafted:
        """Computes unmasked and masked rows."""
        length, (count, groups) = rows.token_ids.shape[1], rows.known.shape
        text = KeepingAttention(causal_mask(length))
        with torch.no_grad(), without_adapter(self.transformer):
            clean = self.transformer(rows.token_ids, torch.arange(length)[None], text)
            at = rows.positions.clamp_max(length - 1).flatten(1)
            rest = clean.gather(1, at[..., None].expand(-1, -1, clean.shape[-1]))[rows.asked.flatten(1)]
            verified = self.transformer.logits(rest)
        masked = torch.full((count, groups * rows.window), self.mask_id)
        attention = ContinuedAttention(text.kept, rows.mask)
        hidden = self.transformer(masked, rows.positions.flatten(1), attention)[rows.asked.flatten(1)]
        logits = self.transformer.logits(hidden)
        if self.chain is not None:
            embedding = self.transformer.embed_tokens
            change = self.chain(hidden, embedding(rows.token_ids.gather(1, at)[rows.asked.flatten(1)]))
            logits = logits + linear(change, embedding.weight)
        return Drafted(logits, verified)

    def measure(self, rows: DraftRows) -> dict[str, float]:
        """Figures on texts that are not trained on: agreement by offset, and tokens per draft that is verified."""
        drafted = self.draft(rows)
        right = torch.zeros(rows.asked.shape, dtype=torch.bool)
        right[rows.asked] = _same(drafted)
        whole = rows.asked.all(-1)  # Windows that do not end with the text.
        accepted = right[whole].cumprod(-1).sum(-1).float().mean()
        figures = {f"kept_{name}": value for name, value in agreement(drafted, rows).items()}
        # The known token's own row gives one token more.
        return {"kept_tokens": 1 + float(accepted) if whole.any() else 1.0, **figures}


def agreement(drafted: Drafted, rows: DraftRows) -> dict[str, float]:
    """By offset: the share of masked rows with the most probable token of the unmasked row at their position."""
    right = torch.zeros(rows.asked.shape)
    right[rows.asked] = _same(drafted).float()
    shares = right.sum((0, 1)) / rows.asked.sum((0, 1)).clamp_min(1)
    return {f"agreement_{offset}": share for offset, share in enumerate(shares.tolist(), 1)}


def _same(drafted: Drafted) -> Tensor:
    return drafted.logits.detach().max(-1).indices == drafted.verified.max(-1).indices


def _divergence(target: Tensor, student: Tensor) -> Tensor:
    """KL of each row of two [n, vocab] log-probabilities, [n]."""
    return kl_div(student, target, reduction="none", log_target=True).sum(-1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def _among(asked: Tensor, index: Tensor) -> Tensor:
    """Where flat positions, all asked, are in the sequence of asked ones."""
    return (asked.flatten().cumsum(0) - 1)[index]


def _next_tokens(rows: DraftRows) -> Tensor:
    """The text's token behind each masked row, [rows, G, K]; anything behind the text's end."""
    at = (rows.positions + 1).clamp_max(rows.token_ids.shape[1] - 1).flatten(1)
    return rows.token_ids.gather(1, at).view(rows.asked.shape)
