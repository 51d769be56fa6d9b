"""Log-probabilities of tokens in the model's own distribution (docs/sampling.md)."""

import torch
from torch import Tensor

from cdlm.model.row import TokenScore


def token_logprobs(logits: Tensor, tokens: Tensor, mask_token_id: int, top: int) -> Tensor:
    """Log-probability of each token, and of the ``top`` likeliest in its place, best first.

    Args:
        logits: [n, vocab], as the model gave them. The mask token can never be generated and has no share.
        tokens: [n] int64.
        mask_token_id: past the vocabulary where there is no mask token.
        top: may be 0, and at most the number of tokens that can be generated.

    Returns:
        [n, 1 + 2 * top] float64: the log-probability, then ``top`` ids, then their log-probabilities. Equal tokens
        have equal numbers: what is looked up and what is ranked is computed in the same way, in fp32.
    """
    values = logits.float()
    if mask_token_id < logits.shape[-1]:
        values = values.index_fill(-1, torch.tensor([mask_token_id], device=logits.device), float("-inf"))
    whole = values.logsumexp(-1, keepdim=True)
    own = values.gather(-1, tokens[:, None]) - whole
    ranked, ids = values.topk(top, dim=-1)
    return torch.cat((own.double(), ids.double(), (ranked - whole).double()), dim=-1)


def token_score(line: list[float], wanted: int, top: int) -> TokenScore:
    """The first ``wanted`` of a line of ``token_logprobs`` with ``top`` tokens."""
    return TokenScore(line[0], [int(token) for token in line[1 : 1 + wanted]], line[1 + top : 1 + top + wanted])
