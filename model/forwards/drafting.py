"""What an engine that drafts has beside one that does not: a gated adapter, and a verifier."""

from collections.abc import Callable

import torch
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.decoding.denoiser import Denoiser
from cdlm.model.decoding.verifier import Verifier
from cdlm.model.forwards.layout import StepLayout
from cdlm.model.loading.checkpoint import Checkpoint
from cdlm.model.loading.drafter import Drafter
from cdlm.model.loading.packing import PackedProduct, packable, worthwhile
from cdlm.model.network.gate import attach
from cdlm.model.network.product import Product
from cdlm.model.network.transformer import Attention, Transformer


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
        attach_drafter(checkpoint.transformer, checkpoint.drafter)
        chain = checkpoint.drafter.chain
        if chain is not None:
            chain = chain.to(checkpoint.transformer.norm.weight.device)
        self.verifier = Verifier(checkpoint.transformer, checkpoint.manifest, denoiser, chain)

    def with_groups(self, layout: StepLayout) -> Callable[[Tensor, Tensor, Attention], Tensor]:
        """The transformer's forward, with the groups that draft behind the given tokens; the adapter acts on these."""
        count, gate = layout.drafting, self._transformer.gate
        assert gate is not None

        def run(ids: Tensor, positions: Tensor, attention: Attention) -> Tensor:
            masks = ids.new_full((count,), self.mask_token_id)
            if layout.leads is not None:
                masks[layout.leads.places] = layout.leads.ids
            gate.first = len(ids) if count else None
            try:
                hidden: Tensor = self._transformer(torch.cat((ids, masks)), positions, attention)
                return hidden
            finally:
                gate.first = None

        return run


def attach_drafter(transformer: Transformer, drafter: Drafter) -> None:
    """Attaches the updates of a gated adapter to a transformer, or a rank's share of one, that is ready to run."""
    like = transformer.norm.weight

    def product(weight: Tensor) -> Callable[[Tensor], Tensor]:
        weight = weight.to(like.device, like.dtype)
        good = packable() and worthwhile(weight, drafter.drafts.window)
        return PackedProduct(weight) if good else Product(weight, None)

    attach(transformer, drafter.updates, product)
