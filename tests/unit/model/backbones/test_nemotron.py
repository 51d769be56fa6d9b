"""What ``config.json`` of Nemotron-Labs-Diffusion becomes, its tensors' names, and what in them is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Ministral3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cdlm.model.backbones import BACKBONES, find_backbone
from cdlm.model.backbones.keys import LONGEST_CONTEXT
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, RotaryScaling, TransformerConfig
from cdlm.model.loading.adapter_config import GatedDrafts
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.network.rope import RotaryEmbedding
from tests.support.models.nemotron import CONFIG, EOS, MASK, VOCAB, build, build_linear_spec_lora

ROPE: dict[str, Any] = CONFIG["rope_parameters"]
PUBLISHED = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "mask_token_id": 100,
    "rope_parameters": ROPE | {"original_max_position_embeddings": 16384},
}


def read(names: TokenNames | None = None, *absent: str, **changes: object) -> tuple[TransformerConfig, Manifest]:
    config = {key: value for key, value in (CONFIG | changes).items() if key not in absent}
    return find_backbone(config).read(config, names or TokenNames())


def test_published_8b() -> None:
    names = TokenNames(added={"<|im_end|>": 11, "</s>": 2}, eos="</s>")
    shape, manifest = read(names, **PUBLISHED)
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 8, False, False)
    assert (shape.rope_theta, shape.rms_norm_eps, shape.tie_word_embeddings) == (1e6, 1e-5, False)
    assert shape.rotary_scaling == RotaryScaling(factor=16.0, positions=16384, query_beta=0.1)
    assert (manifest.block_length, manifest.mask_token_id, manifest.confidence_threshold) == (32, 100, 0.9)
    assert manifest.stop_token_ids == (11, 2)
    assert (manifest.shift, manifest.first_token, manifest.has_border) == (False, "autoregressive", True)
    assert (manifest.block_origin, manifest.prompt_attention, manifest.commit_attention) == (
        "prompt_end", "causal", "causal",
    )  # fmt: skip
    assert (manifest.max_model_len, manifest.trained_len) == (LONGEST_CONTEXT, 262144)
    assert not manifest.bidirectional
    # The sizes of the 8B are the configuration class's defaults.
    sizes = [key for key in PUBLISHED if key not in ("rope_parameters", "mask_token_id")]
    assert read(names, *sizes, "block_size", "rms_norm_eps", **PUBLISHED) == (shape, manifest)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"factor": 0.25},
        {"mscale": 2.0, "mscale_all_dim": 0.5},
        {"mscale": None, "mscale_all_dim": None},
        {"mscale_all_dim": 0.0},
        {"attention_factor": 1.5},
        {"beta_fast": 4.0, "beta_slow": None, "truncate": False, "rope_theta": 1e4},
        {"factor": None},
    ],
)
def test_rotary_angles_are_those_of_transformers(keys: dict[str, Any]) -> None:
    section = {**ROPE, "original_max_position_embeddings": 64, **keys}
    shape, _ = read(rope_parameters=section)
    config = Ministral3Config(head_dim=16, max_position_embeddings=256, rope_parameters=section)
    expected, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    found = RotaryEmbedding(16, shape.rope_theta, shape.rotary_scaling)
    torch.testing.assert_close(found.inverse_frequency, expected, rtol=2e-6, atol=0)
    assert math.isclose(found.attention_factor, factor)


def test_unscaled_angles_may_come_with_scaled_queries() -> None:
    plain = {"rope_type": "default", "rope_theta": 1e5}
    assert read(rope_parameters=plain)[0].rotary_scaling is None
    assert read(rope_parameters=plain)[0].rope_theta == 1e5
    scaled = {**plain, "llama_4_scaling_beta": 0.2, "original_max_position_embeddings": 50}
    assert read(rope_parameters=scaled)[0].rotary_scaling == RotaryScaling(factor=1.0, positions=50, query_beta=0.2)
    # Written under both of its names, and under the older one alone.
    assert read(rope_scaling=ROPE) == read(None, "rope_parameters", rope_scaling=ROPE) == read()
    moved = {key: value for key, value in ROPE.items() if key != "rope_theta"}
    assert read(rope_parameters=moved, rope_theta=3e5)[0].rope_theta == 3e5


REFUSED: list[tuple[str, object, str]] = [
    ("architectures", ["NemotronLabsDiffusionVLMModel"], "architectures is ['NemotronLabsDiffusionVLMModel']; only ["),
    ("dlm_paradigm", "autoregressive", "dlm_paradigm is 'autoregressive'; only 'bidirectional' can be run"),
    ("dlm_paradigm", "block_diff", "dlm_paradigm is 'block_diff'; only 'bidirectional' can be run"),
    ("dlm_type", "dream", "dlm_type is 'dream'; only 'llada' can be run"),
    ("attention_bias", True, "attention_bias is True"),
    ("mlp_bias", True, "mlp_bias is True"),
    ("hidden_act", "gelu", "hidden_act is 'gelu'"),
    ("sliding_window", 4096, "sliding_window is 4096, which is not implemented"),
    ("num_experts", 8, "num_experts is 8, which is not implemented"),
    ("quantization_config", {"quant_method": "fp8"}, "weights stored as 'fp8' cannot be loaded"),
    ("mask_token_id", None, "mask_token_id is None, not an id of the 96"),
    ("mask_token_id", VOCAB, "mask_token_id is 96, not an id of the 96"),
    ("block_size", 0, "block_length must be positive, got 0"),
    ("rope_parameters", None, "rope_parameters is missing"),
    ("rope_parameters", ROPE | {"rope_type": "llama3"}, "only rope_type 'default' and 'yarn' can be run"),
    ("rope_parameters", ROPE | {"partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor is 0.5, which"),
    ("rope_parameters", ROPE | {"short_factor": [1.0]}, "rope_parameters.short_factor is [1.0], which is not"),
    ("rope_parameters", ROPE | {"factor": "16"}, "factor is '16', not a number"),
    ("rope_parameters", ROPE | {"factor": -1.0}, "factor must be positive, got -1.0"),
    ("rope_parameters", ROPE | {"original_max_position_embeddings": None}, "original_max_position_embeddings is None"),
    ("rope_parameters", ROPE | {"original_max_position_embeddings": 0}, "positions must be positive, got 0"),
    ("rope_parameters", ROPE | {"beta_fast": 0.5}, "beta_fast 0.5 must exceed beta_slow 1"),
    ("rope_scaling", ROPE | {"factor": 8.0}, "rope_parameters and rope_scaling must be the same section"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_a_configuration_that_cannot_be_run_is_refused_by_key(key: str, value: object, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(**{key: value})
    assert message in str(caught.value)


def test_names_go_both_ways_and_others_are_refused(tmp_path: Path) -> None:
    build(tmp_path)
    backbone, path = BACKBONES["nemotron_labs_diffusion"], tmp_path / "model.safetensors"
    tensors = load_file(path)
    for stored in {name.rpartition(".")[0] for name in tensors}:
        assert backbone.stored_module(backbone.module_name(stored) or "") == stored
    for name in ("layers.0.mlp.weight", "encoder.layers.0.self_attn.q_scale", "lm_head.weight", "encoder.lm_head.bias"):
        save_file({**tensors, name: torch.zeros(1)}, path)
        with pytest.raises(CheckpointError, match=f"'{name}' is not part of this architecture"):
            load_checkpoint(tmp_path)
    del tensors["diffusion_head.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing tensors: lm_head\.weight"):
        load_checkpoint(tmp_path)


def test_scales_of_a_cache_and_stored_frequencies_are_passed_over(tmp_path: Path) -> None:
    build(tmp_path)
    before = load_checkpoint(tmp_path).transformer.state_dict()
    more = {
        "encoder.rotary_emb.inv_freq": torch.ones(8),
        **{f"encoder.layers.{layer}.self_attn.{kind}_scale": torch.tensor(2.0) for layer in (0, 1) for kind in "kv"},
    }
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | more, tmp_path / "model.safetensors")
    after = load_checkpoint(tmp_path).transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_its_draft_adapter_needs_blocks_of_one_token(tmp_path: Path) -> None:
    adapter = tmp_path / "linear_spec_lora"
    build_linear_spec_lora(adapter, build(tmp_path))
    loaded = load_checkpoint(tmp_path, draft_adapter=adapter, block_length=1)
    assert loaded.drafter is not None
    assert loaded.drafter.drafts == GatedDrafts(mask_token_id=MASK, window=30, in_place=True)
    with pytest.raises(CheckpointError, match="the base is not autoregressive with block_length 32"):
        load_checkpoint(tmp_path, draft_adapter=adapter)
    # A file that says how an adapter drafts counts.
    (adapter / "cdlm.json").write_text('{"gated": true, "mask_token_id": 5, "window": 3}')
    loaded = load_checkpoint(tmp_path, draft_adapter=adapter, block_length=1)
    assert loaded.drafter is not None
    assert loaded.drafter.drafts == GatedDrafts(mask_token_id=5, window=3)


def test_longer_contexts_are_those_of_the_scaled_angles(tmp_path: Path) -> None:
    build(tmp_path, max_position_embeddings=8192)
    assert load_checkpoint(tmp_path).manifest.max_model_len == LONGEST_CONTEXT
    assert load_checkpoint(tmp_path, max_model_len=8192).manifest.max_model_len == 8192
    with pytest.raises(CheckpointError, match="rope_scaling_factor: the checkpoint's rotary angles are scaled already"):
        load_checkpoint(tmp_path, rope_scaling_factor=2.0)
    assert EOS in load_checkpoint(tmp_path).manifest.stop_token_ids
