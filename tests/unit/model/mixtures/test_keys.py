"""What ``config.json`` of LLaDA 2 and of SDAR with experts becomes, and what in it is refused."""

from typing import Any

import pytest
import torch

from cdlm.cli.plan.presets import PRESETS
from cdlm.model.backbones import BACKBONES, find_backbone
from cdlm.model.backbones.base import split_name
from cdlm.model.backbones.keys import LONGEST_CONTEXT
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, MixtureConfig, TransformerConfig
from cdlm.model.network.transformer import Transformer
from tests.support.models.hf_block_checkpoints import CONFIGS as DENSE
from tests.support.models.mixtures import LLADA2_CONFIG, MASK, SDAR_MOE_CONFIG

ABSENT = object()
CONFIGS = {"llada2_moe": LLADA2_CONFIG, "sdar_moe": SDAR_MOE_CONFIG}
LLADA2_TOKENS = {"<|role_end|>": 156900, "<|mask|>": 156895}


def read(name: str, tokens: dict[str, int] | None = None, **changes: Any) -> tuple[TransformerConfig, Manifest]:
    config = {key: value for key, value in (CONFIGS[name] | changes).items() if value is not ABSENT}
    return find_backbone(config).read(config, TokenNames(added=tokens or {}))


def test_published_llada2() -> None:
    shape, manifest = find_backbone(PRESETS["llada2-mini"]).read(
        PRESETS["llada2-mini"], TokenNames(added=LLADA2_TOKENS)
    )
    assert (shape.num_layers, shape.head_dim, shape.rotary_dim, shape.qk_norm) == (20, 128, 64, True)
    assert (shape.attention_bias, shape.tie_word_embeddings, shape.dense_layers) == (False, False, 1)
    assert shape.mixture == MixtureConfig(
        experts=256, experts_per_token=8, width=512, shared_width=512, scores="sigmoid", biased=True, groups=8,
        groups_per_token=4, normalized=True, scale=2.5, dense_layers=1,
    )  # fmt: skip
    assert (manifest.block_length, manifest.mask_token_id, manifest.confidence_threshold) == (32, 156895, 0.95)
    assert manifest.stop_token_ids == (156892, 156900)
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (False, "absolute", "block_causal")
    assert (manifest.first_token, manifest.max_model_len, manifest.trained_len) == ("masked", LONGEST_CONTEXT, 32768)
    assert not manifest.bidirectional


def test_published_sdar_with_experts() -> None:
    shape, manifest = find_backbone(PRESETS["sdar-30b-a3b"]).read(PRESETS["sdar-30b-a3b"])
    assert (shape.head_dim, shape.rotary_dim, shape.num_kv_heads, shape.qk_norm) == (128, 128, 4, True)
    assert shape.mixture == MixtureConfig(experts=128, experts_per_token=8, width=768)
    assert (manifest.block_length, manifest.mask_token_id, manifest.confidence_threshold) == (4, 151669, 0.9)
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (False, "absolute", "block_causal")


def test_absent_keys_of_llada2() -> None:
    absent = dict.fromkeys(
        (
            "first_k_dense_replace", "head_dim", "n_group", "topk_group", "num_shared_experts", "routed_scaling_factor",
            "partial_rotary_factor", "moe_router_enable_expert_bias", "rms_norm_eps", "router_dtype", "score_function",
            "norm_topk_prob", "use_qk_norm",
        ),
        ABSENT,
    )  # fmt: skip
    shape, _ = read("llada2_moe", num_experts=32, **absent)
    assert (shape.head_dim, shape.rotary_dim, shape.rms_norm_eps, shape.dense_layers) == (8, 4, 1e-5, 0)
    assert shape.mixture is not None
    assert (shape.mixture.groups, shape.mixture.groups_per_token, shape.mixture.shared_width) == (8, 4, 0)
    assert (shape.mixture.scale, shape.mixture.biased, shape.mixture.scores) == (2.5, True, "sigmoid")
    one = read("llada2_moe", num_experts_per_tok=1)[0].mixture
    assert one is not None
    assert not one.normalized  # As in the published code.


def test_llada21_is_told_by_its_name_or_by_a_key() -> None:
    """Nothing else in its ``config.json`` differs from that of LLaDA 2.0."""
    assert read("llada2_moe")[1].edit_threshold is None
    assert read("llada2_moe", _name_or_path="inclusionAI/LLaDA2.0-mini")[1].edit_threshold is None
    named = {"_name_or_path": "inclusionAI/LLaDA2.1-mini"}
    assert read("llada2_moe", **named)[1].edit_threshold == 0.9
    assert read("llada2_moe", **named, edit_threshold=0.5)[1].edit_threshold == 0.5
    assert read("llada2_moe", **named, edit_threshold=1)[1].edit_threshold == 1.0
    assert read("sdar_moe", **named)[1].edit_threshold is None


REFUSED: list[tuple[str, str, object, str]] = [
    ("llada2_moe", "score_function", "softmax", "score_function is 'softmax'; only 'sigmoid' can be run"),
    ("llada2_moe", "norm_topk_prob", False, "norm_topk_prob is False; only True can be run"),
    ("llada2_moe", "router_dtype", "bf16", "router_dtype is 'bf16'; only 'fp32' can be run"),
    ("llada2_moe", "edit_threshold", "0.9", "edit_threshold is '0.9', not a number"),
    ("llada2_moe", "edit_threshold", 0, "edit_threshold must lie in (0, 1], got 0.0"),
    ("llada2_moe", "edit_threshold", 1.5, "edit_threshold must lie in (0, 1], got 1.5"),
    ("llada2_moe", "use_bias", True, "use_bias is True"),
    ("llada2_moe", "use_bias", ABSENT, "use_bias is True where it is absent"),
    ("llada2_moe", "use_qkv_bias", True, "use_qkv_bias is True"),
    ("llada2_moe", "norm_head", True, "norm_head is True"),
    ("llada2_moe", "use_qk_norm", False, "use_qk_norm is False"),
    ("llada2_moe", "n_group", 3, "16 experts cannot be dealt to 3 groups"),
    ("llada2_moe", "topk_group", 5, "a token cannot have 5 of 4 groups"),
    ("llada2_moe", "num_experts_per_tok", 9, "a token cannot have 9 of 8 experts"),
    ("llada2_moe", "moe_shared_expert_intermediate_size", 48, "moe_shared_expert_intermediate_size is 48"),
    ("llada2_moe", "partial_rotary_factor", 0.2, "partial_rotary_factor 0.2 turns 3 of 16 dimensions"),
    ("llada2_moe", "rope_scaling", {"rope_type": "yarn"}, "rope_scaling is {"),
    (
        "llada2_moe", "rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.25},
        "rope_parameters.partial_rotary_factor is not implemented",
    ),
    ("llada2_moe", "rope_interleaved", True, "rope_interleaved is True, which is not implemented"),
    ("llada2_moe", "n_routed_experts", 4, "n_routed_experts is 4, which is not implemented"),
    ("llada2_moe", "architectures", ["LLaDA2MoeForCausalLM"], "only ['LLaDA2MoeModelLM']"),
    ("sdar_moe", "decoder_sparse_step", 2, "decoder_sparse_step is 2, which is not implemented"),
    ("sdar_moe", "mlp_only_layers", [0], "mlp_only_layers is [0], which is not implemented"),
    ("sdar_moe", "shared_expert_intermediate_size", 48, "shared_expert_intermediate_size is 48"),
    ("sdar_moe", "num_shared_experts", 1, "num_shared_experts is 1"),
    ("sdar_moe", "scoring_func", "sigmoid", "scoring_func is 'sigmoid'"),
    ("sdar_moe", "n_group", 2, "n_group is 2"),
    ("sdar_moe", "routed_scaling_factor", 2.5, "routed_scaling_factor is 2.5"),
    ("sdar_moe", "moe_router_enable_expert_bias", True, "moe_router_enable_expert_bias is True"),
    ("sdar_moe", "partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5"),
    ("sdar_moe", "num_experts_per_tok", 13, "a token cannot have 13 of 12 experts"),
    ("sdar_moe", "mask_token_id", ABSENT, "mask_token_id is 151669, not an id of the 96"),
    ("sdar_moe", "architectures", ["Qwen3MoeForCausalLM"], "only ['SDARMoeForCausalLM']"),
    *(
        (name, key, ABSENT, f"{key} is missing; it must be a whole number")
        for name in CONFIGS
        for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value", "message"), REFUSED)
def test_a_configuration_that_cannot_be_run_is_refused_by_key(name: str, key: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(name, **{key: value})
    assert message in str(caught.value)


def test_a_dense_format_has_no_experts() -> None:
    with pytest.raises(CheckpointError, match="num_experts is 8, which is not implemented"):
        find_backbone(DENSE["sdar"]).read(DENSE["sdar"] | {"num_experts": 8})


def test_a_tokenizer_without_a_special_token_is_told_which(caplog: pytest.LogCaptureFixture) -> None:
    large = {"vocab_size": 157184, "mask_token_id": ABSENT}
    assert read("llada2_moe", LLADA2_TOKENS, **large)[1].mask_token_id == 156895
    assert not caplog.records
    with pytest.raises(CheckpointError, match=r"the tokenizer has '<\|role_end\|>' as token 156895, where"):
        read("llada2_moe", {"<|role_end|>": 156895}, **large)
    read("llada2_moe", {"<|mask|>": MASK})
    assert "the tokenizer lacks '<|role_end|>', which ends a turn of llada2_moe" in caplog.text
    read("sdar_moe", {"<|MASK|>": MASK})
    assert "the tokenizer lacks '<|im_end|>', which ends a turn of sdar_moe" in caplog.text


@pytest.mark.parametrize("name", CONFIGS)
def test_names_go_both_ways(name: str) -> None:
    """Every parameter is stored under one name, and every such name is known."""
    backbone = BACKBONES[name]
    with torch.device("meta"):
        shapes = Transformer(read(name)[0]).stored_shapes()
    reached: set[str] = set()
    for module in {parameter.rpartition(".")[0] for parameter in shapes}:
        stored = backbone.stored_module(module)
        found = backbone.module_name(stored)
        assert found is not None
        assert module in split_name(found)
        assert backbone.stored_module(found) == stored
        reached |= set(split_name(found))
    assert reached == {parameter.rpartition(".")[0] for parameter in shapes}


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("llada2_moe", "model.layers.0.self_attn.q_proj"),
        ("llada2_moe", "model.layers.0.mlp.router"),
        ("llada2_moe", "layers.0.mlp.gate"),
        ("llada2_moe", "model.embed_tokens"),
        ("sdar_moe", "model.layers.0.mlp.router"),
    ],
)
def test_names_of_other_formats_are_unknown(name: str, stored: str) -> None:
    assert BACKBONES[name].module_name(stored) is None


def test_a_module_without_a_name() -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.other' has no name in the LLaDA 2 format"):
        BACKBONES["llada2_moe"].stored_module("layers.0.mlp.other")
