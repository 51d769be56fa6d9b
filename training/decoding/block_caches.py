"""Fast-dLLM's two block caches (Wu et al., 2025, arXiv 2505.22618; code: NVlabs/Fast-dLLM).

A block opens with a forward over the whole canvas, which fills the cache and is the block's first denoise step. Later
steps compute the active block again and, with the prefix cache, the masks after it; the dual cache leaves those as they
were. The block's first position of a shifted model is predicted by the position before the block, which is computed
again too; the reference code finalizes it in the opening forward instead.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from cdlm.model.network.transformer import Transformer
from cdlm.training.decoding.canvas_cache import CanvasCache
from cdlm.training.decoding.decoder import CachedDecoder, CanvasForward
from cdlm.training.decoding.rules import EngineRule, Rule


@dataclass
class PrefixCacheDecoder(CachedDecoder):
    """The prefix cache: keys and values of the prompt and finished blocks are computed once per block.

    Attributes:
        refresh_interval: steps of a block between forwards over the whole canvas; ``None``, as published, means one at
            its beginning only.
        caches_suffix: whether masks after the active block are computed once per block too (the dual cache).
    """

    rule: Rule = field(kw_only=True, default=EngineRule("threshold", 0.9))
    refresh_interval: int | None = field(kw_only=True, default=None)
    caches_suffix: ClassVar = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refresh_interval is not None and self.refresh_interval < 1:
            raise ValueError(f"refresh_interval must be positive, got {self.refresh_interval}")

    def forward(self, prompt_length: int) -> CanvasForward:  # noqa: ARG002
        """Makes the forwards for a new group of prompts."""
        block = self.manifest.block_length if self.caches_suffix else None
        return _WindowForward(self.model, self.manifest.shift, block, self.refresh_interval)


class DualCacheDecoder(PrefixCacheDecoder):
    """The dual cache: masks after the active block are cached too."""

    caches_suffix: ClassVar = True


class _WindowForward(CanvasCache):
    """Each step recomputes ``block`` positions from the active block on; ``None`` recomputes all of them."""

    def __init__(self, model: Transformer, shift: bool, block: int | None, refresh_interval: int | None) -> None:
        super().__init__(model)
        self.shift, self.block, self.refresh_interval = int(shift), block, refresh_interval

    def advance(self, ids: Tensor, start: int, step: int) -> int:
        if step == 0 or (self.refresh_interval is not None and step % self.refresh_interval == 0):
            self.refresh(ids)
            return ids.shape[1]
        first, end = start - self.shift, ids.shape[1] if self.block is None else start + self.block
        self.update(ids, slice(first, end))
        return end - first
