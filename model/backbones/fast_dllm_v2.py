"""The format of Fast-dLLM v2 (Wu et al., 2025, arXiv 2509.26328): Qwen2's layers, block-causal, predictions shifted."""

from collections.abc import Mapping
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import POSITIONS, DecoderNames, read_shape
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

MASK, MASK_NAME = 151665, "|<MASK>|"  # The configuration does not name it.
BLOCK_LENGTH = 32  # What the configuration class assumes for an absent bd_size.


class FastDllmV2Backbone(DecoderNames):
    """Checkpoints of ``Fast_dLLM_QwenForCausalLM``, for example Fast_dLLM_v2_7B.

    The paper decodes the sub-blocks of a block from left to right. The engine decodes all positions of a block
    together: the paper's decoder with one sub-block per block.
    """

    name = model_type = "Fast_dLLM_Qwen"

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys of a Qwen2 configuration; query, key and value always have biases."""
        keys.require(config, {"architectures": (["Fast_dLLM_QwenForCausalLM"], ["Fast_dLLM_QwenForCausalLM"])})
        shape = read_shape(config, qkv_bias=True)
        manifest = Manifest(
            block_length=keys.integer(config, "bd_size", BLOCK_LENGTH),
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,
            mask_token_id=keys.mask_token_id(config, shape.vocab_size, names, MASK_NAME, MASK),
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, keys.IM_END),
            max_model_len=keys.context(config, POSITIONS),
            trained_len=keys.positions(config, POSITIONS),
            shift=True,
            block_origin="absolute",
            prompt_attention="block_causal",
            first_token="autoregressive",
        )
        return shape, manifest
