"""What ``config.json`` of SDAR, Fast-dLLM v2, Qwen and Llama becomes, and what in it is refused."""

from typing import Any

import pytest

from cdlm.model.backbones import BACKBONES, find_backbone
from cdlm.model.backbones.base import NO_NAMES
from cdlm.model.backbones.keys import LONGEST_CONTEXT
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig
from tests.support.models.hf_block_checkpoints import CONFIGS, EOS, MASK, VOCAB

ABSENT = object()
IN_PLACE = ("sdar", "DreamReasoner", "Stable-DiffCoder")


def read(
    model_type: str,
    names: TokenNames = NO_NAMES,
    **changes: Any,
) -> tuple[TransformerConfig, Manifest]:
    config = {key: value for key, value in (CONFIGS[model_type] | changes).items() if value is not ABSENT}
    return BACKBONES[model_type].read(config, names)


def test_published_sdar() -> None:
    shape, manifest = read(
        "sdar", TokenNames(added={"<|im_end|>": 151645}),
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=32768,
        tie_word_embeddings=True, eos_token_id=151643, mask_token_id=ABSENT,
    )  # fmt: skip
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 8, False, True)
    assert (shape.rope_theta, shape.rms_norm_eps, shape.tie_word_embeddings) == (1e6, 1e-6, True)
    assert (manifest.block_length, manifest.mask_token_id, manifest.stop_token_ids) == (4, 151669, (151643, 151645))
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (False, "absolute", "block_causal")
    assert (manifest.first_token, manifest.max_model_len) == ("masked", LONGEST_CONTEXT)
    assert not manifest.bidirectional
    assert read("sdar", block_size=64)[1].block_length == 64
    assert read("sdar", head_dim=ABSENT)[0].head_dim == 128


def test_published_fast_dllm_v2() -> None:
    shape, manifest = read(
        "Fast_dLLM_Qwen", vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True,
        eos_token_id=151645, mask_token_id=ABSENT, bd_size=ABSENT, layer_types=["full_attention"] * 28,
    )  # fmt: skip
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 2, True, False)
    assert shape.tie_word_embeddings
    assert (manifest.block_length, manifest.mask_token_id, manifest.stop_token_ids) == (32, 151665, (151645,))
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (True, "absolute", "block_causal")
    assert (manifest.first_token, manifest.max_model_len) == ("autoregressive", LONGEST_CONTEXT)
    assert read("Fast_dLLM_Qwen", bd_size=16)[1].block_length == 16


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_autoregressive_formats(model_type: str) -> None:
    shape, manifest = read(model_type, eos_token_id=[7, EOS, 7])
    assert (shape.attention_bias, shape.qk_norm) == (model_type == "qwen2", model_type == "qwen3")
    assert (manifest.block_length, manifest.mask_token_id, manifest.stop_token_ids) == (1, VOCAB, (7, EOS))
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (True, "absolute", "causal")
    assert (manifest.first_token, manifest.max_model_len) == ("autoregressive", 256)
    assert read(model_type, vocab_size=151936)[1].stop_token_ids == (EOS,)  # No stop that the file does not name.


def test_head_sizes_and_absent_keys() -> None:
    assert [read(model_type)[0].head_dim for model_type in ("qwen2", "qwen3", "llama")] == [8, 16, 8]
    assert read("llama", head_dim=24)[0].head_dim == 24
    assert read("qwen3", head_dim=ABSENT)[0].head_dim == 128
    shape, _ = read("llama", num_key_value_heads=ABSENT, rope_theta=ABSENT, attention_bias=ABSENT, mlp_bias=ABSENT)
    assert (shape.num_kv_heads, shape.rope_theta) == (4, 10_000.0)
    moved = {"rope_theta": ABSENT, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}}
    assert all(read(model_type, **moved)[0].rope_theta == 7e5 for model_type in CONFIGS)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0}
REFUSED: list[tuple[str, str, object, str]] = [
    *((model_type, "rope_scaling", LLAMA3, "rope_scaling is {") for model_type in CONFIGS),
    *((model_type, "architectures", ["Other"], "architectures is ['Other']; only ['") for model_type in CONFIGS),
    *((model_type, "hidden_act", "gelu", "hidden_act is 'gelu'") for model_type in CONFIGS),
    *((model_type, "eos_token_id", [None], "eos_token_id is None, not a token id") for model_type in CONFIGS),
    *((model_type, "max_position_embeddings", "2k", "max_position_embeddings is '2k'") for model_type in CONFIGS),
    *((model_type, "attention_bias", True, "attention_bias is True") for model_type in ("qwen3", "llama", *IN_PLACE)),
    ("qwen3", "layer_types", ["full_attention", "sliding_attention"], "layer_types is ['full_attention', 'sliding"),
    ("Fast_dLLM_Qwen", "layer_types", ["sliding_attention"] * 2, "only 'full_attention' layers can be run"),
    *((model_type, "mlp_bias", True, "mlp_bias is True") for model_type in ("llama", *IN_PLACE)),
    ("Stable-DiffCoder", "use_qk_norm", True, "use_qk_norm is True"),
    ("Stable-DiffCoder", "mask_token_id", VOCAB, "mask_token_id is 96, not an id of the 96"),
    ("DreamReasoner", "use_qk_norm", False, "use_qk_norm is False"),
    ("DreamReasoner", "mask_token_id", ABSENT, "mask_token_id is 151669, not an id of the 96"),
    ("DreamReasoner", "block_size", 0, "block_length must be positive, got 0"),
    ("llama", "head_dim", 7, "head_dim must be even and positive, got 7"),
    ("qwen2", "num_attention_heads", 5, "num_attention_heads 5 does not divide hidden_size 32"),
    ("qwen2", "rope_theta", "1e6", "rope_theta is '1e6', not a number"),
    ("sdar", "block_size", 0, "block_length must be positive, got 0"),
    ("sdar", "block_size", "4", "block_size is '4', not a whole number"),
    ("sdar", "mask_token_id", ABSENT, "mask_token_id is 151669, not an id of the 96"),
    ("sdar", "mask_token_id", MASK + 1, "mask_token_id is 96, not an id of the 96"),
    ("Fast_dLLM_Qwen", "mask_token_id", ABSENT, "mask_token_id is 151665, not an id of the 96"),
]


@pytest.mark.parametrize(("model_type", "key", "value", "message"), REFUSED)
def test_a_configuration_that_cannot_be_run_is_refused_by_key(
    model_type: str, key: str, value: object, message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(model_type, **{key: value})
    assert message in str(caught.value)


def test_an_unknown_format_is_told_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="model_type 'gpt2' is not known; known: Dream, Fast_dLLM_Qwen, .*sdar"):
        find_backbone({"model_type": "gpt2"})
