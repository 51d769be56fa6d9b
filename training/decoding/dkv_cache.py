"""dKV-Cache-Decode (Ma et al., 2025, arXiv 2505.15781; code: horseee/dKV-Cache).

Keys and values change most in the step in which their token is finalized. So a position is computed once more in
the step after that, with its token in place, and stays cached from then on; masks are computed at every step. The
cache is refreshed with a forward over the whole canvas at the beginning of a block and every ``refresh_interval``
steps of it.

In a shifted model a position also predicts its successor, and is cached once both tokens are there (the authors'
variant ``un_right`` for Dream).
"""

import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.canvas_cache import CanvasCache
from cdlm.training.decoding.decoder import CachedDecoder
from cdlm.training.decoding.rules import TopConfidence


class DelayedCacheDecoder(CachedDecoder):
    """Decodes a fixed number of tokens a step, as published one; the default interval is the one of its LLaDA demo."""

    def __init__(
        self,
        model: Transformer,
        manifest: Manifest,
        *,
        generation_length: int,
        early_stop: bool,
        tokens_per_step: int = 1,
        refresh_interval: int = 8,
    ) -> None:
        super().__init__(
            model,
            manifest,
            generation_length=generation_length,
            early_stop=early_stop,
            rule=TopConfidence(tokens_per_step),
        )
        if refresh_interval < 1:
            raise ValueError(f"refresh_interval must be positive, got {refresh_interval}")
        self.refresh_interval = refresh_interval

    def forward(self, prompt_length: int) -> "_DelayedForward":
        """Forwards of a new group."""
        return _DelayedForward(self.model, self.manifest, prompt_length, self.refresh_interval)


class _DelayedForward:
    """``settled`` [rows, L] bool: positions whose latest computation saw the tokens that matter to them."""

    def __init__(self, model: Transformer, manifest: Manifest, prompt_length: int, refresh_interval: int) -> None:
        self.cache, self.manifest = CanvasCache(model), manifest
        self.prompt_length, self.refresh_interval = prompt_length, refresh_interval
        self.settled = torch.empty(0)

    def __call__(self, ids: Tensor, start: int, step: int) -> tuple[Tensor, Tensor]:
        if step % self.refresh_interval == 0:
            self.cache.refresh(ids)
            computed = ids.new_full((len(ids),), ids.shape[1])
        else:
            stale = ~self.settled
            computed = stale.sum(dim=-1)
            self.cache.update(ids, _positions(stale, computed))
        self.settled = self._known(ids)
        first = start - int(self.manifest.shift)
        return self.cache.hidden[:, first : first + self.manifest.block_length], computed

    def _known(self, ids: Tensor) -> Tensor:
        known = ids != self.manifest.mask_token_id
        known[:, : self.prompt_length] = True  # Whatever a prompt contains, nothing of it is masked.
        if self.manifest.shift:
            known[:, :-1] &= known[:, 1:].clone()
        return known

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)
        self.settled = self.settled[rows]


def _positions(wanted: Tensor, count: Tensor) -> Tensor:
    """wanted [rows, L] bool, count [rows] of them -> their positions [rows, most], the first repeated to fill up."""
    most = int(count.max())
    index = wanted.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return torch.where(torch.arange(most, device=count.device) < count[:, None], index, index[:, :1])
