"""What ``config.json`` of Dream and LLaDA becomes, and what in it is refused."""

import pytest

from cdlm.model.backbones import BACKBONES
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError
from tests.support.models.hf_checkpoints import DREAM_CONFIG, EOS, HEADS, HIDDEN, LLADA_CONFIG, MASK, VOCAB

CONFIGS = {"Dream": DREAM_CONFIG, "llada": LLADA_CONFIG}


def test_published_sizes_and_ids_are_read() -> None:
    published = DREAM_CONFIG | {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 131072,
        "eos_token_id": 151643, "mask_token_id": 151666,
    }  # fmt: skip
    names = TokenNames(added={"<|endoftext|>": 151643, "<|im_end|>": 151645}, eos="<|endoftext|>")
    shape, manifest = BACKBONES["Dream"].read(published, names)
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 4, True, False)
    assert (shape.rope_theta, shape.rms_norm_eps, shape.tie_word_embeddings) == (1e6, 1e-6, False)
    assert (manifest.mask_token_id, manifest.stop_token_ids) == (151666, (151643, 151645))
    assert (manifest.block_length, manifest.confidence_threshold, manifest.max_model_len) == (32, 0.9, 2048)
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (True, "prompt_end", "full")

    published = LLADA_CONFIG | {
        "vocab_size": 126464, "embedding_size": 126464, "d_model": 4096, "mlp_hidden_size": 12288, "n_layers": 32,
        "n_heads": 32, "n_kv_heads": 32, "max_sequence_length": 4096, "eos_token_id": 126081, "mask_token_id": 126336,
    }  # fmt: skip
    shape, manifest = BACKBONES["llada"].read(published, TokenNames(added={"<|eot_id|>": 126348}))
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.rope_theta) == (128, 32, False, 5e5)
    assert (shape.vocab_size, shape.intermediate_size, shape.rms_norm_eps) == (126464, 12288, 1e-5)
    assert (manifest.mask_token_id, manifest.stop_token_ids) == (126336, (126081, 126348))
    assert (manifest.shift, manifest.block_length, manifest.max_model_len) == (False, 32, 4096)


def test_ids_outside_a_small_vocabulary_are_no_stops() -> None:
    for model_type, config in CONFIGS.items():
        assert BACKBONES[model_type].read(config)[1].stop_token_ids == (EOS,)
    _, manifest = BACKBONES["Dream"].read(DREAM_CONFIG | {"eos_token_id": [5, EOS, 5]})
    assert (manifest.stop_token_ids, manifest.mask_token_id) == ((5, EOS), MASK)


def test_what_the_configuration_class_assumes_for_absent_keys() -> None:
    config = {key: value for key, value in LLADA_CONFIG.items() if key not in ("n_kv_heads", "mlp_hidden_size")}
    shape, _ = BACKBONES["llada"].read(config)
    assert (shape.num_kv_heads, shape.intermediate_size) == (HEADS, 4 * HIDDEN)
    shape, _ = BACKBONES["llada"].read(config | {"multi_query_attention": True, "include_qkv_bias": True})
    assert (shape.num_kv_heads, shape.attention_bias) == (1, True)
    moved = DREAM_CONFIG | {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}}
    assert BACKBONES["Dream"].read(moved)[0].rope_theta == 7e5


ABSENT = object()
REFUSED: list[tuple[str, str, object, str]] = [
    ("Dream", "hidden_act", "gelu", "hidden_act is 'gelu'; only 'silu' can be run"),
    ("Dream", "rope_scaling", {"type": "yarn", "factor": 4.0}, "rope_scaling is {'type': 'yarn'"),
    ("Dream", "rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}, "rope_parameters is {'rope_type'"),
    ("Dream", "mlp_bias", True, "mlp_bias is True"),
    ("Dream", "architectures", ["DreamVLModel"], "architectures is ['DreamVLModel']"),
    ("Dream", "num_attention_heads", 5, "num_attention_heads 5 does not divide hidden_size 32"),
    ("Dream", "num_key_value_heads", 3, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ("Dream", "mask_token_id", VOCAB, "mask_token_id is 264, not an id of the 264 in the vocabulary"),
    ("Dream", "mask_token_id", ABSENT, "mask_token_id is None"),
    ("Dream", "eos_token_id", "end", "eos_token_id is 'end', not a token id"),
    ("Dream", "hidden_size", ABSENT, "hidden_size is missing; it must be a whole number"),
    ("Dream", "num_hidden_layers", 2.5, "num_hidden_layers is 2.5, not a whole number"),
    ("Dream", "rms_norm_eps", "1e-6", "rms_norm_eps is '1e-6', not a number"),
    ("Dream", "tie_word_embeddings", "no", "tie_word_embeddings is 'no', not true or false"),
    ("llada", "activation_type", "swiglu", "activation_type is 'swiglu'; only 'silu' can be run"),
    ("llada", "activation_type", ABSENT, "activation_type is 'swiglu' where it is absent"),
    ("llada", "alibi", True, "alibi is True"),
    ("llada", "rope", False, "rope is False; only True can be run"),
    ("llada", "block_type", "sequential", "block_type is 'sequential'"),
    ("llada", "block_group_size", 2, "block_group_size is 2"),
    ("llada", "layer_norm_type", "default", "layer_norm_type is 'default'"),
    ("llada", "attention_layer_norm", True, "attention_layer_norm is True"),
    ("llada", "include_bias", True, "include_bias is True"),
    ("llada", "scale_logits", True, "scale_logits is True"),
    ("llada", "multi_query_attention", True, "n_kv_heads is 4, multi_query_attention makes it 1"),
    ("llada", "architectures", ["LLaDAMoEModel"], "architectures is ['LLaDAMoEModel']"),
    ("llada", "max_sequence_length", "long", "max_sequence_length is 'long', not a whole number"),
]


@pytest.mark.parametrize(("model_type", "key", "value", "message"), REFUSED)
def test_a_configuration_that_cannot_be_run_is_refused_by_key(
    model_type: str, key: str, value: object, message: str
) -> None:
    config = {k: v for k, v in (CONFIGS[model_type] | {key: value}).items() if v is not ABSENT}
    with pytest.raises(CheckpointError) as caught:
        BACKBONES[model_type].read(config)
    assert message in str(caught.value)
