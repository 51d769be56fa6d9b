"""Scores known tokens of several requests in one forward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.attention.segments import Segment
from cdlm.model.decoding.logits.logprobs import token_logprobs, token_score
from cdlm.model.network.transformer import Transformer
from cdlm.model.row import TokenScore


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """What one scoring request needs in one step.

    Attributes:
        segments: its segments of the forward, in order.
        token_ids: the tokens of all segments, concatenated.
        rows: indices in ``token_ids`` of the hidden states that predict a scored token; one may predict several.
        targets: the scored tokens, one per entry of ``rows``.
        top: how many of the most likely tokens to report per scored token.
    """

    segments: list[Segment]
    token_ids: list[int]
    rows: list[int]
    targets: list[int]
    top: int


def score(
    works: list[ScoreWork],
    transformer: Transformer,
    cache: PagedCache,
    attention: AttentionFactory,
    mask_token_id: int,
) -> list[list[TokenScore]]:
    """Runs one forward over all ``works``; returns the scores of each work's targets, in order."""

    def place(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=cache.keys.device)

    laid = attention(cache, [segment for work in works for segment in work.segments])
    hidden = transformer(place([token for work in works for token in work.token_ids]), laid.positions, laid)
    rows, start = [], 0
    for work in works:
        rows += [start + row for row in work.rows]
        start += len(work.token_ids)
    if not rows:
        return [[] for _ in works]
    # Each state is asked once, however many tokens it predicts: vocabularies are large.
    places = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    logits = transformer.logits(hidden.index_select(0, place(list(places))))
    top = max(work.top for work in works)
    targets = place([token for work in works for token in work.targets])
    asked = place([places[row] for row in rows])
    lines = iter(token_logprobs(logits, targets, mask_token_id, top, asked).tolist())
    return [[token_score(next(lines), work.top, top) for _ in work.targets] for work in works]
