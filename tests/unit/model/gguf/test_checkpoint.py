"""GGUF files hold the checkpoint that they were written from: parameters, manifest, tokens, answers."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer

from cdlm.model.backbones import BACKBONES
from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import Checkpoint, describe_checkpoint, load_checkpoint
from cdlm.model.loading.weights import read_bytes, stored_tensors
from cdlm.model.tokens.tokenizer import load_tokenizer
from cdlm.scheduler.engine import Engine
from cdlm.scheduler.options import EngineOptions
from tests.support.engines import random_requests, run
from tests.support.models import hf_block_checkpoints, hf_checkpoints
from tests.support.models.gguf_files import write_gguf

FORMATS = ("llama", "qwen2", "qwen3", "Dream", "llada")
VOCAB = hf_checkpoints.VOCAB


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(directory: Path, model_type: str, **changes: Any) -> Path:
    if model_type == "Dream":
        return hf_checkpoints.build_dream(directory, **changes)
    if model_type == "llada":
        return hf_checkpoints.build_llada(directory, **changes)
    hf_block_checkpoints.build(directory, model_type, vocab_size=VOCAB, eos_token_id=hf_checkpoints.EOS, **changes)
    tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def tokenizer() -> Tokenizer:
    return hf_checkpoints._tokenizer()


def converted(directory: Path, **how: Any) -> Path:
    special = {"eos": hf_checkpoints.EOS, "bos": hf_checkpoints.EOS, "mask": hf_checkpoints.MASK}
    return write_gguf(directory, directory.parent / "model.gguf", tokenizer(), special=special, **how)


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.transformer.config == expected.transformer.config
    parameters = dict(expected.transformer.named_parameters())
    for name, parameter in found.transformer.named_parameters():
        assert torch.equal(parameter, parameters[name]), name


@pytest.mark.parametrize("model_type", FORMATS)
def test_every_architecture_loads_as_its_directory(tmp_path: Path, model_type: str) -> None:
    directory = build(tmp_path / "checkpoint", model_type)
    path = converted(directory)
    found, expected = load_checkpoint(path), load_checkpoint(directory)
    assert_same(found, expected)
    assert found.manifest == expected.manifest
    describe_checkpoint(path).check_weights()


@pytest.mark.parametrize("model_type", FORMATS)
def test_a_head_that_is_not_stored_is_the_embedding(tmp_path: Path, model_type: str) -> None:
    tied = {"weight_tying": True} if model_type == "llada" else {"tie_word_embeddings": True}
    directory = build(tmp_path / "checkpoint", model_type, **tied)
    found = load_checkpoint(converted(directory))
    assert found.transformer.config.tie_word_embeddings
    assert_same(found, load_checkpoint(directory))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantized_matrices_are_near_the_original(tmp_path: Path, kind: str) -> None:
    """Within half a step of the quantization; norms are exact."""
    directory = build(tmp_path / "checkpoint", "llama", intermediate_size=64)
    found = load_checkpoint(converted(directory, quantization=gguf.GGMLQuantizationType[kind]))
    expected = dict(load_checkpoint(directory).transformer.named_parameters())
    steps = {"F16": 2**11, "BF16": 2**8, "Q8_0": 254, "Q4_0": 7, "Q4_1": 7.5, "Q5_1": 15.5}
    for name, parameter in found.transformer.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, expected[name])
            continue
        largest = expected[name].abs().max()
        assert (parameter - expected[name]).abs().max() <= 1.1 * largest / steps[kind], name


def test_the_engine_answers_as_from_the_directory(tmp_path: Path) -> None:
    directory = build(tmp_path / "checkpoint", "Dream")
    path, requests = converted(directory), random_requests(3, seed=2)
    answers = [run(Engine(EngineOptions(model=str(model), block_length=8)), requests) for model in (path, directory)]
    assert {name: answer.token_ids for name, answer in answers[0].items()} == {
        name: answer.token_ids for name, answer in answers[1].items()
    }


def test_the_tokenizer_has_its_template_and_special_tokens(tmp_path: Path) -> None:
    template = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    path = converted(build(tmp_path / "checkpoint", "llama"), chat_template=template)
    found = load_tokenizer(path)
    assert found.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|im_start|>hi<|im_end|>"
    assert (found.eos_token, found.mask_token) == ("<|endoftext|>", "<|mask|>")
    assert found.encode("hello<|im_end|>") == tokenizer().encode("hello<|im_end|>").ids
    assert found.decode(found.encode("hello <|im_end|>wörld"), skip_special_tokens=True) == "hello wörld"


def test_small_files_are_written_once_and_again_for_another_file(tmp_path: Path, cache: Path) -> None:
    directory = build(tmp_path / "checkpoint", "llama")
    path = converted(directory)
    load_tokenizer(path)
    [first] = (cache / "cdlm-serve" / "gguf").iterdir()
    load_checkpoint(path)
    assert [first] == list((cache / "cdlm-serve" / "gguf").iterdir())
    build(tmp_path / "checkpoint", "llama", max_position_embeddings=128)
    assert load_checkpoint(converted(directory, pre="smollm")).manifest.max_model_len == 128


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = converted(build(tmp_path / "checkpoint", "llama"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_checkpoint(path).manifest.block_length == 1


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"architecture": "mamba"}, "general.architecture 'mamba' is not known; known: dream, llada, llama, qwen2"),
        ({"pre": "tekken"}, "tokenizer.ggml.pre 'tekken' is not known; known: .*llama-bpe.*qwen2.*smollm"),
        ({"leave_out": ("block_count",)}, "llama.block_count is missing; it must be a whole number"),
        ({"extra": {"block_count": "two"}}, "llama.block_count is 'two', not a whole number"),
        ({"extra": {"expert_count": 8}}, "llama.expert_count is 8.0; only 0 can be run"),
        ({"extra": {"rope.scaling.type": "yarn"}}, "llama.rope.scaling.type is 'yarn'; only 'none' can be run"),
        ({"extra": {"rope.dimension_count": 4}}, "llama.rope.dimension_count is not 8, the size of a head"),
        ({"extra": {"block_count": 3}}, "llama.block_count is 3, but there are tensors of 2 layers"),
        ({"extra": {"embedding_length": 64}}, "llama.embedding_length is not the width of token_embd.weight"),
        ({"extra": {"feed_forward_length": 40}}, "has shape .*48.*, expected .*40"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name(tmp_path: Path, how: dict[str, Any], problem: str) -> None:
    directory = build(tmp_path / "checkpoint", "llama")
    path = converted(directory, **how)
    with pytest.raises(CheckpointError, match=problem) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value)


def test_an_unknown_type_of_tensor_is_refused_by_name(tmp_path: Path) -> None:
    path = converted(build(tmp_path / "checkpoint", "llama"))
    written = path.read_bytes()
    name = b"blk.0.attn_norm.weight"
    at = written.index(name) + len(name) + 4 + 8
    path.write_bytes(written[:at] + (99).to_bytes(4, "little") + written[at + 4 :])
    with pytest.raises(CheckpointError, match=r"tensor 'blk.0.attn_norm.weight' has the type 99, which is not known"):
        load_checkpoint(path)


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    path = converted(build(tmp_path / "checkpoint", "llama"))
    written = path.read_bytes()
    for size in [*range(0, 400, 7), *range(400, len(written), 4999), len(written) - 1]:
        path.write_bytes(written[:size])
        with pytest.raises(CheckpointError, match=r"model.gguf"):
            load_checkpoint(path)


def test_damaged_metadata_are_refused(tmp_path: Path) -> None:
    """Any byte may be wrong: the file is refused, or read as what it says."""
    path = converted(build(tmp_path / "checkpoint", "llama"))
    written = path.read_bytes()
    for at in range(0, 600, 5):
        path.write_bytes(written[:at] + bytes([written[at] ^ 0xFF]) + written[at + 1 :])
        try:
            load_checkpoint(path)
        except CheckpointError:
            continue


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.gguf: cannot be read: .*No such file"):
        load_checkpoint(tmp_path / "absent.gguf")


def test_its_progress_counts_what_is_read(tmp_path: Path) -> None:
    path = converted(build(tmp_path / "checkpoint", "llama"), quantization=gguf.GGMLQuantizationType.F16)
    read = stored_tensors(path, BACKBONES["llama"])
    assert read_bytes(path) == sum(tensor.nbytes for _, _, tensor in read)
