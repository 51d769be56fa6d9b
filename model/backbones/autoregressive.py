"""Autoregressive formats: decoded as blocks of one token, predicted from the hidden state of the token before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cdlm.model.backbones import keys
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.decoder import DecoderNames, read_shape, with_defaults
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig


class AutoregressiveManifest(Manifest):
    """The manifest of a checkpoint without a mask token; raises ``CheckpointError`` for a block length above 1.

    ``mask_token_id`` is the first id past the vocabulary. It is never embedded, since a block of one token is predicted
    before it enters a forward, and never generated, since it has no logit.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length != 1:
            raise CheckpointError(
                f"block_length is {self.block_length}; an autoregressive checkpoint has no mask token, "
                "it can be decoded with block_length 1 only"
            )


@dataclass(slots=True)
class AutoregressiveBackbone(DecoderNames):
    """Checkpoints of a causal language model of transformers.

    Attributes:
        model_type, architecture: their names in ``config.json``.
        qkv_bias: whether query, key and value have biases.
        qk_norm: whether query and key are normalized.
        assumed: the configuration class's defaults, in transformers, for keys that are absent or null.
        end_of_turn: the token that ends a turn in the family's chat template.
    """

    model_type: str
    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False
    assumed: Mapping[str, object] = field(default_factory=dict)
    end_of_turn: str = keys.IM_END

    @property
    def name(self) -> str:
        """The ``model_type``."""
        return self.model_type

    def read(self, config: Mapping[str, Any], names: TokenNames = NO_NAMES, /) -> tuple[TransformerConfig, Manifest]:
        """Reads the shape from the keys that Llama and Qwen share."""
        keys.require(config, {"architectures": ([self.architecture], [self.architecture])})
        config = with_defaults(config, **self.assumed)
        shape = read_shape(config, qkv_bias=self.qkv_bias, qk_norm=self.qk_norm)
        manifest = AutoregressiveManifest(
            block_length=1,
            confidence_threshold=keys.CONFIDENCE_THRESHOLD,  # No effect: at least one position per step is finalized.
            mask_token_id=shape.vocab_size,
            stop_token_ids=keys.stop_token_ids(config, shape.vocab_size, names, self.end_of_turn),
            max_model_len=keys.context(config),
            trained_len=keys.positions(config),
            shift=True,
            block_origin="absolute",
            prompt_attention="causal",
            first_token="autoregressive",
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
    "max_position_embeddings": 32_768,
}

QWEN2 = AutoregressiveBackbone("qwen2", "Qwen2ForCausalLM", qkv_bias=True, assumed=_QWEN_DEFAULTS)
QWEN3 = AutoregressiveBackbone("qwen3", "Qwen3ForCausalLM", qk_norm=True, assumed=_QWEN_DEFAULTS | {"head_dim": 128})
LLAMA = AutoregressiveBackbone("llama", "LlamaForCausalLM", assumed=_LLAMA_DEFAULTS, end_of_turn="<|eot_id|>")
