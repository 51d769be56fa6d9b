"""What an engine that drafts has beside one that does not: a gated adapter, and a verifier."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.decoding.denoiser import Denoiser
from cdlm.model.decoding.verifier import Verifier
from cdlm.model.forwards.layout import StepLayout
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.loading.packing import PackedProduct, packable, worthwhile
from cdlm.model.network.gate import attach
from cdlm.model.network.product import Product
from cdlm.model.network.transformer import Attention


class Drafting:
    """The gated adapter of a checkpoint, attached to its transformer, and the verifier of its drafts.

    Args:
        checkpoint: has a drafter; its transformer is ready to run.
        denoiser: decides rows whose logits are edited.
        backend: the resolved attention backend.

    Raises:
        CheckpointError: the backend cannot compute masked rows behind several tokens of a request.
    """

    def __init__(self, checkpoint: Checkpoint, denoiser: Denoiser, backend: str) -> None:
        if backend == "flex":
            raise CheckpointError("attention_backend flex cannot draft; use triton or sdpa")
        assert checkpoint.drafter is not None
        drafts = checkpoint.drafter.drafts
        self.mask_token_id, self.window, self.in_place = drafts.mask_token_id, drafts.window, drafts.in_place
        self._transformer = checkpoint.transformer
        self._gate = attach(checkpoint.transformer, checkpoint.drafter.updates, self._product)
        self.verifier = Verifier(checkpoint.transformer, checkpoint.manifest, denoiser)

    def _product(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        like = self._transformer.norm.weight
        weight = weight.to(like.device, like.dtype)
        return PackedProduct(weight) if packable() and worthwhile(weight, self.window) else Product(weight, None)

    def with_groups(self, layout: StepLayout) -> Callable[[Tensor, Tensor, Attention], Tensor]:
        """The transformer's forward, with the groups that draft behind the given tokens; the adapter acts on these."""
        count = layout.drafting

        def run(ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
            masks = ids.new_full((count,), self.mask_token_id)
            if layout.leads is not None:
                masks[layout.leads.places] = layout.leads.ids
            self._gate.first = len(ids) if count else None
            try:
                hidden: Tensor = self._transformer(torch.cat((ids, masks)), positions, attention)
                return hidden
            finally:
                self._gate.first = None

        return run
