"""DreamReasoner and Stable-DiffCoder: formats that only the architecture tells from another of their ``model_type``."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cdlm.model.backbones import BACKBONES, find_backbone
from cdlm.model.backbones.keys import LONGEST_CONTEXT
from cdlm.model.backbones.token_names import TokenNames
from cdlm.model.config import CheckpointError, Manifest, TransformerConfig
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.hf_block_checkpoints import CONFIGS, build
from tests.support.models.hf_checkpoints import DREAM_CONFIG

NAMES = ("DreamReasoner", "Stable-DiffCoder")
END = "<[end▁of▁sentence]>"


def read(name: str, names: TokenNames, *absent: str, **changes: object) -> tuple[TransformerConfig, Manifest]:
    config = {key: value for key, value in (CONFIGS[name] | changes).items() if key not in absent}
    return find_backbone(config).read(config, names)


def test_published_dream_reasoner() -> None:
    shape, manifest = read(
        "DreamReasoner", TokenNames(added={"<|im_end|>": 151645}, eos="<|im_end|>"),
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=32768,
        eos_token_id=151643, mask_token_id=151669,
    )  # fmt: skip
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 8, False, True)
    assert (shape.rope_theta, shape.rms_norm_eps, shape.tie_word_embeddings) == (1e6, 1e-6, False)
    assert (manifest.block_length, manifest.mask_token_id, manifest.confidence_threshold) == (32, 151669, 0.9)
    assert manifest.stop_token_ids == (151643, 151645)
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (False, "absolute", "block_causal")
    assert (manifest.first_token, manifest.max_model_len, manifest.trained_len) == ("masked", LONGEST_CONTEXT, 32768)
    assert not manifest.bidirectional  # No warning of a teacher, unlike a Dream's.


def test_published_stable_diffcoder() -> None:
    shape, manifest = read(
        "Stable-DiffCoder", TokenNames(added={END: 2, "<[MASK▁TOKEN]>": 5}, eos=END),
        vocab_size=155136, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192, eos_token_id=2,
    )  # fmt: skip
    assert (shape.head_dim, shape.num_kv_heads, shape.attention_bias, shape.qk_norm) == (128, 8, False, False)
    assert (shape.rope_theta, shape.rms_norm_eps, shape.tie_word_embeddings) == (5e5, 1e-6, False)
    assert (manifest.block_length, manifest.mask_token_id, manifest.confidence_threshold) == (4, 5, 0.95)
    assert manifest.stop_token_ids == (2,)
    assert (manifest.shift, manifest.block_origin, manifest.prompt_attention) == (False, "absolute", "block_causal")
    assert (manifest.first_token, manifest.max_model_len, manifest.trained_len) == ("masked", LONGEST_CONTEXT, 8192)
    assert not manifest.bidirectional


def test_what_tells_a_format() -> None:
    for name in NAMES:
        config = CONFIGS[name]
        by_map = {key: value for key, value in config.items() if key != "architectures"}
        by_class = {key: value for key, value in config.items() if key != "auto_map"}
        assert find_backbone(by_map) is find_backbone(by_class) is BACKBONES[name]
    remote = {"AutoTokenizer": ["code.DreamTokenizer", None], "AutoModel": "owner/name--code.DreamForCausalLM"}
    assert find_backbone({"model_type": "Dream", "auto_map": remote}) is BACKBONES["DreamReasoner"]
    # A class of another format is none of this model_type's.
    assert find_backbone({"model_type": "llama", "architectures": ["DreamForCausalLM"]}) is BACKBONES["llama"]


@pytest.mark.parametrize("stated", ["LlamaForCausalLM", None, "LlamaForCausalLM, without a map"])
def test_an_ordinary_llama_stays_a_next_token_model(stated: str | None) -> None:
    config: dict[str, Any] = CONFIGS["llama"] | {"auto_map": {"AutoModelForCausalLM": "modeling.LlamaForCausalLM"}}
    if stated != "LlamaForCausalLM":
        config.pop("architectures" if stated is None else "auto_map")
    _, manifest = find_backbone(config).read(config)
    assert (manifest.block_length, manifest.prompt_attention) == (1, "causal")
    assert find_backbone(DREAM_CONFIG) is BACKBONES["Dream"]


@pytest.mark.parametrize(("name", "other"), [("DreamReasoner", "DreamModel"), ("Stable-DiffCoder", "LlamaForCausalLM")])
def test_two_classes_that_contradict_each_other_are_refused(name: str, other: str) -> None:
    with pytest.raises(CheckpointError, match=rf"architectures is \['{other}'\]; only "):
        read(name, TokenNames(), architectures=[other])


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_is_one_of_the_checkpoints_own_tokenizer(name: str) -> None:
    number = {"DreamReasoner": 151669, "Stable-DiffCoder": 5}[name]

    def mask(*absent: str, **tokens: Any) -> int:
        return read(name, TokenNames(**tokens), *absent, vocab_size=152000)[1].mask_token_id

    assert mask("mask_token_id") == number  # Without a tokenizer.
    assert mask("mask_token_id", added={"<|MASK|>": number}) == number
    assert mask("mask_token_id", added={"<m>": 7, "a": number}, mask="<m>") == 7
    for tokens, found in (
        ({"added": {"<s>": 1}}, f"has no token {number}, where"),
        ({"ordinary": {"the": number}}, f"has 'the' as token {number}, where"),
    ):
        with pytest.raises(CheckpointError, match=f"mask_token_id is missing, and the tokenizer {found}"):
            mask("mask_token_id", **tokens)
        assert read(name, TokenNames(**tokens), mask_token_id=9)[1].mask_token_id == 9


@pytest.mark.parametrize(("name", "end"), [("DreamReasoner", "<|im_end|>"), ("Stable-DiffCoder", END)])
def test_a_missing_end_of_turn_is_named(name: str, end: str, caplog: pytest.LogCaptureFixture) -> None:
    _, manifest = read(name, TokenNames(added={end: 8}), mask_token_id=9)
    assert manifest.stop_token_ids == (90, 8)
    read(name, TokenNames())
    assert not caplog.records
    read(name, TokenNames(added={"<s>": 8}), mask_token_id=9)
    assert f"the tokenizer lacks {end!r}, which ends a turn of {name}" in caplog.text


def test_weights_of_the_neighbor_format_are_refused_by_tensor(tmp_path: Path) -> None:
    build(tmp_path / "reasoner", "DreamReasoner")
    path = tmp_path / "reasoner" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "q_norm" not in name}, path)
    with pytest.raises(CheckpointError, match=r"missing tensors: layers\.0\.self_attn\.q_norm\.weight"):
        load_checkpoint(tmp_path / "reasoner")
    save_file(tensors | {"model.layers.0.self_attn.q_proj.bias": tensors["model.norm.weight"].clone()}, path)
    with pytest.raises(CheckpointError, match=r"self_attn\.q_proj\.bias' is not part of this architecture"):
        load_checkpoint(tmp_path / "reasoner")
