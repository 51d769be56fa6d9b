"""dKV-Cache-Decode (Ma et al., 2025, arXiv 2505.15781; code: horseee/dKV-Cache).

Keys and values change most in the step in which their token is finalized. So a position is computed once more in
the step after that, with its token in place, and stays cached from then on; masks are computed at every step. The
cache is refreshed with a forward over the whole canvas at the beginning of a block and every ``refresh_interval``
steps of it.

In a shifted model a position also predicts its successor, and is cached once both tokens are there (the authors'
variant ``un_right`` for Dream).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.canvas_cache import CanvasCache
from cdlm.training.decoding.decoder import CachedDecoder, CanvasForward


@dataclass
class DelayedCacheDecoder(CachedDecoder):
    """dKV-Cache-Decode, one token per step as published; the default interval is that of the authors' LLaDA demo."""

    refresh_interval: int = field(kw_only=True, default=8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refresh_interval < 1:
            raise ValueError(f"refresh_interval must be positive, got {self.refresh_interval}")

    def forward(self, prompt_length: int) -> CanvasForward:
        """Makes the forwards for a new group of prompts."""
        return _DelayedForward(self.model, self.manifest, prompt_length, self.refresh_interval)


class _DelayedForward(CanvasCache):
    """``settled`` [rows, L] bool: positions that are cached for good, computed with their final token."""

    def __init__(self, model: Transformer, manifest: Manifest, prompt_length: int, refresh_interval: int) -> None:
        super().__init__(model)
        self.manifest, self.prompt_length, self.refresh_interval = manifest, prompt_length, refresh_interval
        self.settled = torch.empty(0)

    def advance(self, ids: Tensor, start: int, step: int) -> Tensor | int:  # noqa: ARG002
        computed: Tensor | int = ids.shape[1]
        if step % self.refresh_interval == 0:
            self.refresh(ids)
        else:
            stale = ~self.settled
            computed = stale.sum(dim=-1)
            self.update(ids, _positions(stale, computed))
        self.settled = self._known(ids)
        return computed

    def _known(self, ids: Tensor) -> Tensor:
        known = ids != self.manifest.mask_token_id
        known[:, : self.prompt_length] = True  # Whatever a prompt contains, nothing of it is masked.
        if self.manifest.shift:
            known[:, :-1] &= known[:, 1:].clone()
        return known

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.settled = self.settled[rows]


def _positions(wanted: Tensor, count: Tensor) -> Tensor:
    """The positions of ``wanted`` [rows, L] bool, as [rows, max(count)] int64; shorter rows repeat their first one."""
    most = int(count.max())
    index = wanted.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return torch.where(torch.arange(most, device=count.device) < count[:, None], index, index[:, :1])
