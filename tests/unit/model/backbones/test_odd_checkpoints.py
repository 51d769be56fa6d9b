"""Checkpoints that transformers loads although keys are absent, in another file, or beside what is implemented."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from cdlm.model.backbones import BACKBONES
from cdlm.model.backbones.llama_qwen import DecoderBackbone
from cdlm.model.backbones.token_names import read_token_names
from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models import hf_block_checkpoints, hf_checkpoints
from tests.support.models.hf_checkpoints import VOCAB, build_dream, build_llada

CLASSES: dict[str, Any] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
NEEDED = {
    "Dream": {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"},
    "llada": {"d_model", "n_heads", "n_layers", "vocab_size", "block_type", "layer_norm_type", "rope",
              "activation_type", "mlp_ratio"},
}  # fmt: skip
BLOCKS = ("sdar", "Fast_dLLM_Qwen", "DreamReasoner", "Stable-DiffCoder")
NEEDED |= dict.fromkeys(BLOCKS, NEEDED["Dream"])
CONFIGS = {"Dream": hf_checkpoints.DREAM_CONFIG, "llada": hf_checkpoints.LLADA_CONFIG} | {
    name: hf_block_checkpoints.CONFIGS[name] for name in BLOCKS
}


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize("model_type", CLASSES)
def test_absent_and_null_keys_mean_what_they_mean_in_transformers(model_type: str) -> None:
    backbone = BACKBONES[model_type]
    assert isinstance(backbone, DecoderBackbone)
    defaults = CLASSES[model_type]().to_dict()
    assert {key: defaults[key] for key in backbone.assumed} == backbone.assumed
    shape, manifest = backbone.read({"model_type": model_type})
    assert (shape.rope_theta, shape.rms_norm_eps) == (defaults["rope_parameters"]["rope_theta"], 1e-6)
    assert (shape.num_kv_heads, shape.tie_word_embeddings, manifest.stop_token_ids) == (32, False, ())
    assert manifest.trained_len == defaults["max_position_embeddings"]
    assert backbone.read(dict.fromkeys(hf_block_checkpoints.CONFIGS[model_type], None)) == (shape, manifest)


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("absent", [True, False])
def test_every_optional_key_may_be_absent_or_null(model_type: str, absent: bool) -> None:
    config = CONFIGS[model_type]
    for key in config.keys() - NEEDED[model_type] - {"model_type", "mask_token_id"}:
        changed = {name: value for name, value in config.items() if name != key} | ({} if absent else {key: None})
        shape, _ = BACKBONES[model_type].read(changed)
        assert shape.vocab_size == config["vocab_size"]


def test_a_checkpoint_as_transformers_saves_it_without_its_defaults(tmp_path: Path) -> None:
    hf_block_checkpoints.build(tmp_path / "whole", "llama", rms_norm_eps=1e-6, rope_theta=10_000.0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    for key in ("rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias", "tie_word_embeddings", "eos_token_id"):
        edit(tmp_path / "saved" / "config.json", **{key: ...})
    whole, saved = (load_checkpoint(tmp_path / name).transformer for name in ("whole", "saved"))
    assert saved.config == whole.config


def test_names_of_a_model_saved_without_its_head(tmp_path: Path) -> None:
    hf_block_checkpoints.build(tmp_path, "qwen2", tie_word_embeddings=True)
    before = load_checkpoint(tmp_path).transformer.state_dict()
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in weights.items()}, tmp_path / "model.safetensors")
    after = load_checkpoint(tmp_path).transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_end_and_mask_tokens_are_those_of_the_checkpoints_own_tokenizer(tmp_path: Path) -> None:
    dream = build_dream(tmp_path / "dream", eos_token_id=None, mask_token_id=None)
    manifest = load_checkpoint(dream).manifest
    assert manifest.mask_token_id == VOCAB - 1  # The tokenizer names it.
    assert manifest.stop_token_ids == (260, 262)  # Its eos_token, and <|im_end|>.
    llada = build_llada(tmp_path / "llada")
    tokenizer = json.loads((llada / "tokenizer.json").read_text())
    tokenizer["added_tokens"][2]["content"] = "<|eot_id|>"
    (llada / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_checkpoint(llada).manifest.stop_token_ids == (260, 262)
    edit(llada / "tokenizer_config.json", eos_token={"content": "<|eot_id|>", "special": True})
    edit(llada / "config.json", eos_token_id=...)
    assert load_checkpoint(llada).manifest.stop_token_ids == (262,)
    edit(llada / "config.json", mask_token_id=...)
    with pytest.raises(CheckpointError, match="mask_token_id is None, not an id"):
        load_checkpoint(llada)
    tokenizer["added_tokens"][3]["content"] = "<|mdm_mask|>"
    (llada / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_checkpoint(llada).manifest.mask_token_id == 263


UNIMPLEMENTED = {
    "partial_rotary_factor": 0.5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "sliding_window": 128,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logits_scaling": 8.0,
    "no_rope_layers": [1, 0],
    "num_experts": 8,
    "clip_qkv": 8.0,
    "query_pre_attn_scalar": 224,
    "quantization_config": {"quant_method": "gptq", "bits": 4},
}


@pytest.mark.parametrize("model_type", [*CLASSES, *CONFIGS])
@pytest.mark.parametrize("key", UNIMPLEMENTED)
def test_what_is_not_implemented_is_refused_by_name(model_type: str, key: str) -> None:
    config = (CONFIGS | hf_block_checkpoints.CONFIGS)[model_type] | {key: UNIMPLEMENTED[key]}
    config = {name: value for name, value in config.items() if name not in ("use_sliding_window", "rope_scaling")}
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}"):
        BACKBONES[model_type].read(config)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "sdar", "Fast_dLLM_Qwen", "DreamReasoner"])
def test_sliding_windows_count_only_where_a_layer_has_one(model_type: str) -> None:
    config = hf_block_checkpoints.CONFIGS[model_type] | {"sliding_window": 64}
    backbone = BACKBONES[model_type]
    assert backbone.read(config) == backbone.read(config | {"use_sliding_window": True, "max_window_layers": 2})
    for first in (1, None):
        with pytest.raises(CheckpointError, match="use_sliding_window is True"):
            backbone.read(config | {"use_sliding_window": True, "max_window_layers": first})


def test_an_embedding_may_have_more_rows_than_there_are_tokens(tmp_path: Path) -> None:
    build_llada(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_checkpoint(tmp_path).transformer.config.vocab_size == VOCAB


@pytest.mark.parametrize("build", [build_dream, build_llada])
def test_a_text_with_ids_that_the_embedding_lacks_is_found_at_the_start(tmp_path: Path, build: Any) -> None:
    build(tmp_path)
    path = tmp_path / ("vocab.json" if build is build_dream else "tokenizer.json")
    content = json.loads(path.read_text())
    (content if build is build_dream else content["model"]["vocab"])["zebra"] = VOCAB + 4
    path.write_text(json.dumps(content))
    message = "token 'zebra' has id 268, but the embedding has 264 rows; text can contain it"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"chat_template": "{{ '<|new|>' + messages[0]['content'] }}"}, "the chat template writes it"),
        ({"chat_template": [{"name": "default", "template": "<|new|>"}]}, "the chat template writes it"),
        ({"eos_token": "<|new|>"}, "it is the end token"),
    ],
)
def test_added_tokens_without_a_row_matter_where_they_can_be_written(
    tmp_path: Path, changes: dict[str, Any], reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    build_llada(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": VOCAB, "content": "<|new|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    edit(tmp_path / "tokenizer_config.json", **changes)
    if reason is None:
        load_checkpoint(tmp_path)
        assert "the embedding has no row for the added tokens '<|new|>'" in caplog.text
        return
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(tmp_path)


def test_names_from_every_kind_of_tokenizer_file(tmp_path: Path) -> None:
    assert read_token_names(tmp_path).find("</s>") == []
    (tmp_path / "added_tokens.json").write_text('{"<extra>": 7}')
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [], "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["</s>", -1.0]]}})
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "added_tokens_decoder": {"9": {"content": "<mask>"}}})
    )
    names = read_token_names(tmp_path)
    assert names.find(names.eos, "<extra>", "<mask>", None, "other") == [1, 7, 9]
