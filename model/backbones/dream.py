"""The format of Dream (Ye et al., 2025, arXiv 2508.15487): Qwen2's layers, bidirectional, predictions shifted."""

from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import POSITIONS, DecoderNames, read_shape
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

TRAINED_CONTEXT = 2048  # Dream inherits a larger max_position_embeddings from Qwen2.5.


class DreamBackbone(DecoderNames):
    """Checkpoints of ``DreamModel``, for example Dream-v0-Instruct-7B."""

    name = model_type = "Dream"

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys of a Qwen2 configuration; query, key and value have biases by default."""
        keys.require(config, {"architectures": (["DreamModel"], ["DreamModel"])})
        shape = read_shape(config, qkv_bias=keys.flag(config, "attention_bias", True))
        manifest = Manifest(
            block_length=keys.BLOCK_LENGTH,
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,
            mask_token_id=keys.mask_token_id(config, shape.vocab_size, names),
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, keys.IM_END),
            max_model_len=min(keys.context(config, POSITIONS), TRAINED_CONTEXT),
            shift=True,
            bidirectional=True,  # The format does not tell a teacher from a teacher with a student merged into it.
        )
        return shape, manifest
