"""Log-probabilities of tokens in the model's own distribution (docs/sampling.md)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cdlm.model.row import RowResult, RowWork, TokenScore


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


@dataclass(frozen=True, slots=True)
class RowScores:
    """The logits of a step's rows that ask for log-probabilities, as they are before any edit.

    Attributes:
        works: the rows of the step.
        at: [asked] int64, which of the step's predicted positions belong to such rows.
        logits: [asked, vocab].
    """

    works: list[RowWork]
    at: Tensor
    logits: Tensor

    @classmethod
    def of(cls, works: list[RowWork], counts: list[int], logits: Tensor) -> "RowScores | None":
        """Copies them from logits [positions, vocab], of which each row has ``counts``; ``None`` if no row asks."""
        wanting = [work.logprobs is not None for work in works]
        if not any(wanting):
            return None
        at = torch.from_numpy(np.flatnonzero(np.repeat(wanting, counts))).to(logits.device)
        return cls(works, at, logits.index_select(0, at))

    def added(
        self, results: list[RowResult], now: Tensor, chosen: Tensor, tokens: Tensor, mask_token_id: int
    ) -> list[RowResult]:
        """The results with the log-probabilities of what the step finalized, in one transfer more.

        Args:
            results: those of ``works``.
            now: [rows, block] bool, what the step finalized.
            chosen: [positions] int64, where each predicted position lies in [rows, block], flattened.
            tokens: [rows, block] int64, after the step.
            mask_token_id: as in ``token_logprobs``.
        """
        wanting = [index for index, work in enumerate(self.works) if work.logprobs is not None]
        places, block = chosen.index_select(0, self.at), tokens.shape[1]
        # How many were finalized the host has just learnt, so the device need not be asked again.
        count = sum(results[index].finalized for index in wanting)
        fresh = torch.nonzero_static(now.view(-1)[places], size=count)[:, 0]
        places = places[fresh]
        top = max(self.works[index].logprobs or 0 for index in wanting)
        figures = token_logprobs(self.logits.index_select(0, fresh), tokens.view(-1)[places], mask_token_id, top)
        scores: dict[int, dict[int, TokenScore]] = {index: {} for index in wanting}
        for place, line in zip(places.tolist(), figures.tolist(), strict=True):
            index, offset = divmod(place, block)
            end = 1 + (self.works[index].logprobs or 0)
            ids = [int(token) for token in line[1:end]]
            scores[index][offset] = TokenScore(line[0], ids, line[1 + top : top + end])
        return [replace(result, scores=scores.get(index, {})) for index, result in enumerate(results)]
