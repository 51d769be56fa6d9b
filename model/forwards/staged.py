"""A forward that is taken in pieces: some rows of a layer at a time."""

import math

import torch
from torch import Tensor

from cdlm.model.attention.cache import PagedCache
from cdlm.model.attention.paged import AttentionFactory
from cdlm.model.attention.segments import clean_segments, cut
from cdlm.model.network.parameters import attention_share
from cdlm.model.network.transformer import Transformer
from cdlm.model.row import Span


class StagedForward:
    """The forward over one request's known tokens, in pieces so that other requests' steps go on beside it.

    A prompt whose rows see all of it cannot be cut by tokens alone: a row needs the keys of all in every layer. So a
    layer's keys and values are written for all rows first, which is a small part of it, and then its rows are taken
    piece by piece. Nobody reads the keys and values of the layers that are done before all are.

    Args:
        piece: the work of a piece, in tokens through all layers that see nothing; rows that see many keys are more
            work than that, so a piece has fewer of them.

    Attributes:
        tokens: T, how many are known.
        layer: the one that is computed next.
        row: the first of its rows that is not computed yet.
    """

    def __init__(
        self,
        spans: list[Span],
        pages: list[int],
        transformer: Transformer,
        cache: PagedCache,
        attention: AttentionFactory,
        *,
        piece: float,
    ) -> None:
        config = transformer.config
        segments = clean_segments(spans, pages)
        ids = [token for span in spans for token in span.token_ids]
        self.tokens, self.layer, self.row = len(ids), 0, 0
        pairs = sum(each.length * (each.visible - each.causal * each.length / 2) for each in segments)
        self._row_work = (1 + attention_share(config) * pairs / self.tokens) / config.num_layers
        count = -(-self.tokens // max(1, int(piece / self._row_work)))
        self._ends = [self.tokens * (index + 1) // count for index in range(count)]
        starts = [0, *self._ends[:-1]]
        self._whole = attention(cache, segments)
        self._parts = [
            attention(cache, cut(segments, start, end)) if count > 1 else self._whole
            for start, end in zip(starts, self._ends, strict=True)
        ]
        self._transformer = transformer
        self._hidden = transformer.embed_tokens(torch.tensor(ids, dtype=torch.long, device=cache.keys.device))

    @property
    def done(self) -> bool:
        """Whether all keys and values are there."""
        return self.layer == len(self._transformer.layers)

    @property
    def border(self) -> Tensor:
        """[hidden]: what predicts the position after the last token, once all layers are done."""
        out: Tensor = self._transformer.norm(self._hidden[-1])
        return out

    @torch.inference_mode()
    def advance(self, work: float) -> int:
        """Takes pieces while they are no more work than that, and one in any case; returns the work done.

        Both are numbers of tokens, as the work of a piece is.
        """
        rows = 0
        while not self.done and (rows == 0 or (rows + self._next_rows) * self._row_work <= work):
            rows += self._next_rows
            self._take()
        return math.ceil(rows * self._row_work)

    @property
    def _next_rows(self) -> int:
        return next(end for end in self._ends if end > self.row) - self.row

    def _take(self) -> None:
        end = self.row + self._next_rows
        part = self._parts[self._ends.index(end)]
        if self.row == 0 and len(self._parts) > 1:
            self._transformer.write_layer(self._hidden, self._whole.positions, self._whole, self.layer)
        rows = self._hidden[self.row : end]
        self._hidden[self.row : end] = self._transformer.run_layers(
            rows, part.positions, part, self.layer, self.layer + 1
        )
        self.row = end
        if end == self.tokens:
            self.layer, self.row = self.layer + 1, 0
