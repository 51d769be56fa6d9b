"""Block-causal formats that predict in place: each block sees itself and those before it, counted from position 0."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.autoregressive import LLAMA
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import POSITIONS, DecoderNames, read_shape, with_defaults
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import Manifest, TransformerConfig

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class BlockCausalBackbone(DecoderNames):
    """Checkpoints with the layers of Qwen3 or Llama, trained on blocks that are denoised in place.

    The end of a prompt that fills no block shares its block with the first tokens of the answer.

    Attributes:
        name, model_type, architecture: as in ``Backbone``.
        block_length: tokens per block where ``block_size`` is absent. Variants with longer blocks may lack that key:
            their block length must be given when they are loaded.
        mask: the mask's id where neither the configuration nor the tokenizer names it.
        assumed: values of keys that are absent or null: those of the configuration class.
        end_of_turn: the token that ends a turn in the chat template.
        mask_name: the mask's text. Where it is not known, the tokenizer's token ``mask`` must read like a mask.
        qk_norm: whether query and key are normalized.
        confidence_threshold: that of the decoder published with the checkpoints.
    """

    name: str
    model_type: str
    architecture: str
    block_length: int
    mask: int
    assumed: Mapping[str, object]
    end_of_turn: str = keys.IM_END
    mask_name: str | None = None
    qk_norm: bool = False
    confidence_threshold: float = keys.CONFIDENCE_THRESHOLD

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys that Llama and Qwen share; query, key and value have no biases."""
        keys.require(config, {"architectures": ([self.architecture], [self.architecture])})
        config = with_defaults(config, **self.assumed)
        shape = self.shape(config)
        if self.mask_name is None:
            mask = keys.mask_token_id_by_number(config, shape.vocab_size, names, self.mask)
        else:
            mask = keys.mask_token_id(config, shape.vocab_size, names, self.mask_name, self.mask)
        if names.known and not names.find(self.end_of_turn):
            logger.warning("the tokenizer lacks %r, which ends a turn of %s", self.end_of_turn, self.name)
        manifest = Manifest(
            block_length=keys.integer(config, "block_size", self.block_length),
            confidence_threshold=self.confidence_threshold,
            mask_token_id=mask,
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, self.end_of_turn),
            max_model_len=keys.context(config),
            trained_len=keys.positions(config),
            block_origin="absolute",
            prompt_attention="block_causal",
            edit_threshold=self.edit_threshold(config),
        )
        return shape, manifest

    def edit_threshold(self, config: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """The confidence above which decided tokens are replaced; ``None`` if the weights were not trained for that."""
        return None

    def shape(self, config: Mapping[str, Any]) -> TransformerConfig:
        """The shape, from a configuration in which no key is absent that ``assumed`` has."""
        return read_shape(config, qkv_bias=False, qk_norm=self.qk_norm)


_POSITIONS: dict[str, object] = {"max_position_embeddings": POSITIONS}

# Cheng et al., 2025, arXiv 2510.06303: for example SDAR-4B-Chat.
SDAR = BlockCausalBackbone(
    name="sdar",
    model_type="sdar",
    architecture="SDARForCausalLM",
    block_length=4,
    mask=151669,
    mask_name="<|MASK|>",
    assumed=_POSITIONS | {"head_dim": 128},
    qk_norm=True,
)
# Wu et al., 2026, arXiv 2606.19257: Qwen3's layers under Dream's model_type. Unlike Dream, nothing is shifted.
DREAM_REASONER = BlockCausalBackbone(
    name="DreamReasoner",
    model_type="Dream",
    architecture="DreamForCausalLM",
    block_length=32,
    mask=151669,
    assumed=_POSITIONS,
    qk_norm=True,
)
# ByteDance Seed, 2026: a Llama by its model_type.
STABLE_DIFFCODER = BlockCausalBackbone(
    name="Stable-DiffCoder",
    model_type="llama",
    architecture="StableDiffcoderForCausalLM",
    block_length=4,
    mask=5,
    assumed=LLAMA.assumed,
    end_of_turn="<[end▁of▁sentence]>",
    confidence_threshold=0.95,
)
