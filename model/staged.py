"""A forward that is taken a few layers at a time."""

import torch
from torch import Tensor

from model.attention.cache import PagedCache
from model.attention.paged import AttentionFactory
from model.row import Span
from model.segments import clean_segments
from model.transformer import Transformer


class StagedForward:
    """The forward over one request's known tokens, cut by layers so that other requests' steps go on beside it.

    A prompt whose rows see all of it cannot be cut by tokens. Between two calls the hidden states of all its tokens
    are kept; nobody reads the keys and values of the layers that are done before all are.
    """

    def __init__(
        self,
        spans: list[Span],
        pages: list[int],
        transformer: Transformer,
        cache: PagedCache,
        attention: AttentionFactory,
    ) -> None:
        self._transformer = transformer
        self._attention = attention(cache, clean_segments(spans, pages))
        ids = [token for span in spans for token in span.token_ids]
        self.tokens, self.layer = len(ids), 0
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
    def advance(self, layers: int) -> None:
        """Takes up to that many layers."""
        last = min(self.layer + layers, len(self._transformer.layers))
        positions = self._attention.positions
        self._hidden = self._transformer.run_layers(self._hidden, positions, self._attention, self.layer, last)
        self.layer = last
