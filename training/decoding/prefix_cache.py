"""Fast-dLLM's two block caches (Wu et al., 2025, arXiv 2505.22618; code: NVlabs/Fast-dLLM).

A block opens with a forward over the whole canvas, which fills the cache and is the block's first denoise step.
Later steps compute the active block again and, with the prefix cache, the masks behind it; the dual cache leaves
those as they were. The block's first position of a shifted model is predicted by the position before the block,
which is computed again too; the reference code finalizes it in the opening forward instead.
"""

from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.canvas_cache import CanvasCache
from cdlm.training.decoding.decoder import CachedDecoder
from cdlm.training.decoding.rules import Rule, Threshold


class PrefixCacheDecoder(CachedDecoder):
    """Keys and values of the prompt and of finished blocks are computed once a block.

    Args:
        refresh_interval: steps of a block between forwards over the whole canvas; ``None``, as published, has one
            at its beginning only.
    """

    caches_suffix = False

    def __init__(
        self,
        model: Transformer,
        manifest: Manifest,
        *,
        generation_length: int,
        early_stop: bool,
        rule: Rule | None = None,
        refresh_interval: int | None = None,
    ) -> None:
        super().__init__(
            model,
            manifest,
            generation_length=generation_length,
            early_stop=early_stop,
            rule=Threshold(0.9) if rule is None else rule,
        )
        if refresh_interval is not None and refresh_interval < 1:
            raise ValueError(f"refresh_interval must be positive, got {refresh_interval}")
        self.refresh_interval = refresh_interval

    def forward(self, prompt_length: int) -> "_WindowForward":  # noqa: ARG002
        """Forwards of a new group."""
        return _WindowForward(self.model, self.manifest, self.refresh_interval, caches_suffix=self.caches_suffix)


class _WindowForward:
    def __init__(
        self, model: Transformer, manifest: Manifest, refresh_interval: int | None, *, caches_suffix: bool
    ) -> None:
        self.cache = CanvasCache(model)
        self.block, self.shift = manifest.block_length, int(manifest.shift)
        self.refresh_interval, self.caches_suffix = refresh_interval, caches_suffix

    def __call__(self, ids: Tensor, start: int, step: int) -> tuple[Tensor, Tensor]:
        first = start - self.shift
        if step == 0 or (self.refresh_interval is not None and step % self.refresh_interval == 0):
            computed = ids.shape[1]
            self.cache.refresh(ids)
        else:
            end = start + self.block if self.caches_suffix else ids.shape[1]
            computed = end - first
            self.cache.update(ids, slice(first, end))
        return self.cache.hidden[:, first : first + self.block], ids.new_full((len(ids),), computed)

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)
