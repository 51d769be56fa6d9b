"""A chain through the drafts of masked rows: each draft depends on the token in front of it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

# So many of a masked row's most probable tokens are scored.
CANDIDATES = 64


class Chain(nn.Module):
    """Scores the tokens that a masked row may draft by the token in front of them, which the row did not see.

    With the row's hidden state h, the embedding e of the token in front, and the embedding c of a candidate, the
    candidate's logit grows by c . up(silu(down([norm(h), norm(e)]))). Draft heads that depend on each other in this
    way are those of Hydra (Ankner et al., 2024, arXiv 2402.05109); here a row's own forward is all but free.

    Args:
        hidden_size: of the transformer.
        width: of the hidden layer.
    """

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(2 * hidden_size, width, bias=False)
        self.up = nn.Linear(width, hidden_size, bias=False)
        nn.init.zeros_(self.up.weight)  # A new chain changes no draft.

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """Returns what candidates' embeddings are multiplied with.

        Args:
            hidden: [n, hidden_size], hidden states of masked rows.
            before: [n, hidden_size], embeddings of the tokens in front of what they draft.

        Returns:
            [n, hidden_size], in the dtype of the weights.
        """
        size, dtype = hidden.shape[-1:], self.down.weight.dtype
        both = [rms_norm(each.to(dtype), size, eps=1e-6) for each in (hidden, before)]
        out: Tensor = self.up(silu(self.down(torch.cat(both, -1))))
        return out
