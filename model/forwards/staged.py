"""A forward in pieces: some tokens of one layer at a time."""

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
    """The forward over one request's known tokens, in pieces between the steps of other requests.

    If every token of a prompt sees the whole prompt, chunks of tokens do not work: a token needs the keys of all tokens
    in every layer. Each layer therefore first writes the keys and values of all tokens, which is cheap, and then
    computes its tokens piece by piece. No other request reads these keys and values before all layers are done.

    Args:
        piece: the work per piece, in units of one token through all layers without attention; tokens that see many keys
            count more, and a piece has fewer of them.

    Attributes:
        tokens: T, the number of known tokens.
        layer: the layer that is computed next.
        row: the first token that this layer has not computed.
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
        """Whether all layers are computed."""
        return self.layer == len(self._transformer.layers)

    @property
    def border(self) -> Tensor:
        """[hidden], the normalized hidden state of the last token; valid once ``done``."""
        out: Tensor = self._transformer.norm(self._hidden[-1])
        return out

    @torch.inference_mode()
    def advance(self, work: float) -> int:
        """Computes at least one piece, and more while the total stays within ``work``; returns the work done.

        Both are in the unit of ``piece``.
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


class StagedForwards:
    """Staged forwards of several models over the same tokens, one model after another.

    Args:
        forwards: each with the work of one of its units, in units of the first.
    """

    def __init__(self, *forwards: tuple[StagedForward, float]) -> None:
        self._forwards = forwards

    @property
    def done(self) -> bool:
        """Whether all layers of all models are computed."""
        return all(forward.done for forward, _ in self._forwards)

    @property
    def border(self) -> Tensor:
        """The border state of the first model."""
        return self._forwards[0][0].border

    def advance(self, work: float) -> int:
        """Computes pieces of the first model that is not done; see ``StagedForward.advance``."""
        forward, unit = next(each for each in self._forwards if not each[0].done)
        return math.ceil(unit * forward.advance(work / unit))
