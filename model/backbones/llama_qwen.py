"""Formats with the layers of Llama and Qwen: next-token models, block-causal models, and Dream."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import POSITIONS, DecoderNames, read_shape, with_defaults
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig

logger = logging.getLogger(__name__)

DREAM_CONTEXT = 2048  # What Dream was trained for; it inherits a larger max_position_embeddings from Qwen2.5.


class CausalManifest(Manifest):
    """The manifest of a checkpoint without a mask token; raises ``CheckpointError`` for a block length above 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length != 1:
            raise CheckpointError(
                f"block_length is {self.block_length}; an autoregressive checkpoint has no mask token, "
                "it can be decoded with block_length 1 only"
            )


@dataclass(slots=True)
class DecoderBackbone(DecoderNames):
    """Checkpoints of causal and of block-causal models; blocks are counted from position 0.

    The end of a prompt that fills no block shares its block with the first tokens of the answer. A causal model has no
    mask: it is decoded as blocks of one token, and its ``mask_token_id`` is the first id past the vocabulary, which is
    never embedded, since such a block is predicted before it enters a forward, and never generated.

    Attributes:
        name, model_type, architecture: as in ``Backbone``.
        assumed: values of keys that are absent or null: those of the configuration class.
        mask: the mask's id where neither the configuration nor the tokenizer names it; ``None`` for a causal model.
        mask_name: the mask's text. Where it is not known, the tokenizer's token ``mask`` must read like a mask.
        block_length: tokens per block where the key ``block_key`` is absent. Variants with longer blocks may lack that
            key: their block length must be given when they are loaded.
        end_of_turn: the token that ends a turn in the chat template.
        qkv_bias: whether query, key and value have biases.
        qk_norm: whether query and key are normalized.
        shift: whether a token is predicted from the hidden state of the one before.
        confidence_threshold: that of the decoder published with the checkpoints; no effect on blocks of one token.
    """

    name: str
    model_type: str
    architecture: str
    assumed: Mapping[str, object]
    mask: int | None = None
    mask_name: str | None = None
    block_length: int = 1
    block_key: str = "block_size"
    end_of_turn: str = keys.IM_END
    qkv_bias: bool = False
    qk_norm: bool = False
    shift: bool = False
    confidence_threshold: float = keys.CONFIDENCE_THRESHOLD

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the keys that Llama and Qwen share."""
        keys.require(config, {"architectures": ([self.architecture], [self.architecture])})
        config = with_defaults(config, **self.assumed)
        shape, block_length = self.shape(config), self.block_length
        if self.mask is None:
            mask = shape.vocab_size
        else:
            block_length = keys.integer(config, self.block_key, block_length)
            mask = self._mask_token_id(config, shape.vocab_size, names, self.mask)
            if names.known and not names.find(self.end_of_turn):
                logger.warning("the tokenizer lacks %r, which ends a turn of %s", self.end_of_turn, self.name)
        kind = CausalManifest if self.mask is None else Manifest
        manifest = kind(
            block_length=block_length,
            confidence_threshold=self.confidence_threshold,
            mask_token_id=mask,
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, self.end_of_turn),
            max_model_len=keys.context(config),
            trained_len=keys.positions(config),
            shift=self.shift,
            block_origin="absolute",
            prompt_attention="causal" if self.mask is None else "block_causal",
            first_token="autoregressive" if self.shift else "masked",
            edit_threshold=self.edit_threshold(config),
        )
        return shape, manifest

    def edit_threshold(self, config: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """The confidence above which decided tokens are replaced; ``None`` if the weights were not trained for that."""
        return None

    def shape(self, config: Mapping[str, Any]) -> TransformerConfig:
        """The shape, from a configuration in which no key is absent that ``assumed`` has."""
        return read_shape(config, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm)

    def _mask_token_id(self, config: Mapping[str, Any], vocab_size: int, names: TokenNames, default: int) -> int:
        if self.mask_name is None:
            return keys.mask_token_id_by_number(config, vocab_size, names, default)
        return keys.mask_token_id(config, vocab_size, names, self.mask_name, default)


class DreamBackbone(DecoderNames):
    """Checkpoints of ``DreamModel``, for example Dream-v0-Instruct-7B (Ye et al., 2025, arXiv 2508.15487).

    They have Qwen2's layers, are bidirectional, and their predictions are shifted.
    """

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
            max_model_len=min(keys.context(config, POSITIONS), DREAM_CONTEXT),
            shift=True,
            bidirectional=True,  # The format does not tell a teacher from a teacher with a student merged into it.
        )
        return shape, manifest


_LLAMA_DEFAULTS: dict[str, object] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
_QWEN_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "max_position_embeddings": POSITIONS,
}
_POSITIONS: dict[str, object] = {"max_position_embeddings": POSITIONS}

LLAMA = DecoderBackbone("llama", "llama", "LlamaForCausalLM", _LLAMA_DEFAULTS, end_of_turn="<|eot_id|>", shift=True)
QWEN2 = DecoderBackbone("qwen2", "qwen2", "Qwen2ForCausalLM", _QWEN_DEFAULTS, qkv_bias=True, shift=True)
QWEN3 = DecoderBackbone(
    "qwen3", "qwen3", "Qwen3ForCausalLM", _QWEN_DEFAULTS | {"head_dim": 128}, qk_norm=True, shift=True
)
# Wu et al., 2025, arXiv 2509.26328: for example Fast_dLLM_v2_7B. The paper decodes the sub-blocks of a block from left
# to right. The engine decodes all positions of a block together: the paper's decoder with one sub-block per block.
FAST_DLLM_V2 = DecoderBackbone(
    name="Fast_dLLM_Qwen",
    model_type="Fast_dLLM_Qwen",
    architecture="Fast_dLLM_QwenForCausalLM",
    assumed=_POSITIONS,
    mask=151665,
    mask_name="|<MASK>|",
    block_length=32,
    block_key="bd_size",
    qkv_bias=True,
    shift=True,
)
# Cheng et al., 2025, arXiv 2510.06303: for example SDAR-4B-Chat.
SDAR = DecoderBackbone(
    name="sdar",
    model_type="sdar",
    architecture="SDARForCausalLM",
    assumed=_POSITIONS | {"head_dim": 128},
    mask=151669,
    mask_name="<|MASK|>",
    block_length=4,
    qk_norm=True,
)
# Wu et al., 2026, arXiv 2606.19257: Qwen3's layers under Dream's model_type. Unlike Dream, nothing is shifted.
DREAM_REASONER = DecoderBackbone(
    name="DreamReasoner",
    model_type="Dream",
    architecture="DreamForCausalLM",
    assumed=_POSITIONS,
    mask=151669,
    block_length=32,
    qk_norm=True,
)
# ByteDance Seed, 2026: a Llama by its model_type.
STABLE_DIFFCODER = DecoderBackbone(
    name="Stable-DiffCoder",
    model_type="llama",
    architecture="StableDiffcoderForCausalLM",
    assumed=_LLAMA_DEFAULTS,
    mask=5,
    block_length=4,
    end_of_turn="<[end▁of▁sentence]>",
    confidence_threshold=0.95,
)
