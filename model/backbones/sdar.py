"""The format of SDAR (Cheng et al., 2025, arXiv 2510.06303): Qwen3's layers, block-causal, predictions in place."""

from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import POSITIONS, DecoderNames, read_shape, with_defaults
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

# The default of the configuration class, or of the code published with the checkpoints, for an absent key.
HEAD_DIM = 128
BLOCK_LENGTH = 4
MASK, MASK_NAME = 151669, "<|MASK|>"


class SdarBackbone(DecoderNames):
    """Checkpoints of ``SDARForCausalLM``, for example SDAR-4B-Chat.

    Variants trained with longer blocks (b8 to b64) may lack ``block_size`` in their configuration: the block length
    must then be given when they are loaded.
    """

    model_type = "sdar"

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys of a Qwen3 configuration."""
        keys.require_architecture(config, "SDARForCausalLM")
        shape = read_shape(with_defaults(config, head_dim=HEAD_DIM), qkv_bias=False, qk_norm=True)
        manifest = Manifest(
            block_length=keys.integer(config, "block_size", BLOCK_LENGTH),
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,
            mask_token_id=keys.mask_token_id(config, shape.vocab_size, names, MASK_NAME, MASK),
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, keys.IM_END),
            max_model_len=keys.context(config, POSITIONS),
            trained_len=keys.positions(config, POSITIONS),
            block_origin="absolute",
            prompt_attention="block_causal",
        )
        return shape, manifest
