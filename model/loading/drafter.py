"""Gated adapters: LoRA adapters that act on masked rows only, and draft what the other rows verify."""

from collections.abc import Mapping
from dataclasses import dataclass

from cdlm.model.backbones import Backbone
from cdlm.model.config import CheckpointError, Manifest
from cdlm.model.loading.adapter import Adapter, check_adapter
from cdlm.model.loading.adapter_config import DECODING_FILE, AdapterDecoding, GatedDrafts
from cdlm.model.network.chain import Chain
from cdlm.model.network.gate import LowRankUpdate
from cdlm.model.network.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Drafter:
    """A gated adapter that fits its base.

    ``updates`` are by names of the transformer's linear layers; a rank has its shares. ``chain`` is ``None`` if drafts
    do not depend on each other.
    """

    drafts: GatedDrafts
    updates: Mapping[str, LowRankUpdate]
    chain: Chain | None = None


def read_drafter(transformer: Transformer, adapter: Adapter, backbone: Backbone, manifest: Manifest) -> Drafter:
    """Checks that an adapter is gated and can draft for a checkpoint.

    Raises:
        CheckpointError: it is not gated or does not fit, its mask token is not in the vocabulary, or the checkpoint is
            not autoregressive, so that its rows cannot verify drafts.
    """
    drafts = adapter.decoding.drafts
    if backbone.draft_window and adapter.decoding == AdapterDecoding():  # No file says how it drafts.
        drafts = GatedDrafts(manifest.mask_token_id, backbone.draft_window, in_place=True)
    if drafts is None:
        raise CheckpointError(f"{adapter.path}: its directory's {DECODING_FILE} does not say that it is gated")
    if not (manifest.block_length == 1 and manifest.has_border and manifest.prompt_attention == "causal"):
        raise CheckpointError(
            f"{adapter.path}: drafts are verified by causal rows; the base is not autoregressive with block_length"
            f" {manifest.block_length}"
        )
    vocab_size = transformer.config.vocab_size
    if drafts.mask_token_id >= vocab_size:
        raise CheckpointError(
            f"{adapter.path}: mask_token_id {drafts.mask_token_id} is not below the base's vocab_size {vocab_size}"
        )
    size = transformer.config.hidden_size
    if adapter.chain is not None and adapter.chain.up.out_features != size:
        raise CheckpointError(
            f"{adapter.path}: its chain is for a hidden_size of {adapter.chain.up.out_features}; the base's is {size}"
        )
    updates = check_adapter(transformer, adapter, backbone)
    if "lm_head" in updates:
        raise CheckpointError(f"{adapter.path}: the LM head cannot be gated")
    for name, update in updates.items():
        down, up = transformer.share(name, update.down, update.up)
        updates[name] = LowRankUpdate(down, up, update.scale)
    return Drafter(drafts, updates, adapter.chain)
