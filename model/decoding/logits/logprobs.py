"""Log-probabilities of tokens in the model's own distribution (docs/sampling.md)."""

import torch
from torch import Tensor

from cdlm.model.row import TokenScore


def token_logprobs(logits: Tensor, tokens: Tensor, mask_token_id: int, top: int, rows: Tensor | None = None) -> Tensor:
    """Natural log-probability of each token, and of the ``top`` most likely tokens at its position, best first.

    Args:
        logits: [n, vocab], before any edit. The mask token gets probability 0.
        tokens: [n or m] int64.
        mask_token_id: an id past the vocabulary if there is no mask token.
        top: may be 0, and at most the number of tokens that can be generated.
        rows: [m], the row of ``logits`` for each of m tokens; absent: one token per row.

    Returns:
        [n or m, 1 + 2 * top] float64: the log-probability, then ``top`` ids, then their log-probabilities. Both are
        computed in the same way, in fp32: a token has the same value in both.
    """
    values = logits.to(torch.float32, copy=True)
    if mask_token_id < logits.shape[-1]:
        values[:, mask_token_id].fill_(float("-inf"))
    whole = values.logsumexp(-1, keepdim=True)
    ranked, ids = values.topk(top, dim=-1)
    ranked = ranked - whole
    if rows is None:
        own = values.gather(-1, tokens[:, None]) - whole
    else:
        own, ranked, ids = values[rows, tokens][:, None] - whole[rows], ranked[rows], ids[rows]
    return torch.cat((own.double(), ids.double(), ranked.double()), dim=-1)


def token_score(line: list[float], wanted: int, top: int) -> TokenScore:
    """Converts one row of ``token_logprobs`` with ``top`` tokens to a ``TokenScore`` with the ``wanted`` best."""
    return TokenScore(line[0], [int(token) for token in line[1 : 1 + wanted]], line[1 + top : 1 + top + wanted])
