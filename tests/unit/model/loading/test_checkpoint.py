"""Loading refuses what it cannot trust, and names the file and the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.checkpoints import AXES, build_checkpoint


@pytest.mark.parametrize("axis", AXES)
def test_saved_weights_come_back(tmp_path: Path, axis: str) -> None:
    directory = build_checkpoint(tmp_path, axis)
    checkpoint = load_checkpoint(directory)
    stored = load_file(directory / "model.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(checkpoint.transformer.memory(name), tensor)
    if checkpoint.transformer.config.tie_word_embeddings:
        assert checkpoint.transformer.lm_head.weight is checkpoint.transformer.embed_tokens.weight


def test_manifest_values_can_be_overridden(tmp_path: Path) -> None:
    manifest = load_checkpoint(build_checkpoint(tmp_path), block_length=4, confidence_threshold=0.7).manifest
    assert (manifest.block_length, manifest.confidence_threshold) == (4, 0.7)


def test_sharded_weights_load(tmp_path: Path) -> None:
    directory = build_checkpoint(tmp_path)
    whole = load_file(directory / "model.safetensors")
    names = sorted(whole)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: whole[name] for name in members}, directory / file)
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, members in shards.items() for name in members}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_checkpoint(directory).transformer.state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in names)
    save_file(dict(list(whole.items())[:1]), directory / "model-3.safetensors")
    again = {**index["weight_map"], "again": "model-3.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": again}))
    with pytest.raises(CheckpointError, match=r"model-3\.safetensors: tensor '.*' was stored in another file"):
        load_checkpoint(directory)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors: missing"):
        load_checkpoint(directory)


def _edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_config(directory: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def _outward_link(directory: Path) -> None:
    outside = directory.parent / "outside.safetensors"
    (directory / "model.safetensors").rename(outside)
    (directory / "model.safetensors").symlink_to(outside)


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: missing"),
    "missing config": (lambda d: (d / "config.json").unlink(), "config.json: missing"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), "config.json: cannot be read"),
    "list as config": (lambda d: (d / "config.json").write_text("[]"), "not a JSON object"),
    "pickle": (_pickled, "pytorch_model.bin: pickled weights are refused"),
    "outward link": (_outward_link, "leads out of the checkpoint directory"),
    "truncated": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:500]),
        "not a readable safetensors file",
    ),
    "missing tensor": (
        lambda d: _edit_weights(d, lambda t: t.pop("norm.weight")),  # type: ignore[arg-type, return-value]
        "missing tensors: norm.weight",
    ),
    "unknown tensor": (
        lambda d: _edit_weights(d, lambda t: t.update(extra=torch.zeros(1))),
        "'extra' is not part of this architecture",
    ),
    "wrong shape": (
        lambda d: _edit_weights(d, lambda t: t.update({"norm.weight": torch.zeros(5)})),
        "'norm.weight' has shape (5,), expected (32,)",
    ),
    "wrong dtype": (
        lambda d: _edit_weights(d, lambda t: t.update({"norm.weight": torch.zeros(32, dtype=torch.int8)})),
        "'norm.weight' has dtype I8",
    ),
    "unknown architecture": (lambda d: _edit_config(d, lambda c: c.update(model_type="gpt9")), "'gpt9' is not known"),  # type: ignore[call-overload]
    "unknown key": (
        lambda d: _edit_config(d, lambda c: c["manifest"].update(tau=1)),
        "unknown keys in 'manifest': tau",
    ),
    "missing key": (
        lambda d: _edit_config(d, lambda c: c["transformer"].pop("head_dim")),  # type: ignore[arg-type, return-value]
        "missing keys in 'transformer': head_dim",
    ),
    "odd heads": (
        lambda d: _edit_config(d, lambda c: c["transformer"].update(num_kv_heads=3)),
        "num_heads 4 is not a multiple of num_kv_heads 3",
    ),
    "threshold out of range": (
        lambda d: _edit_config(d, lambda c: c["manifest"].update(confidence_threshold=1.5)),
        "confidence_threshold must lie in (0, 1]",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_checkpoint_is_refused_by_name(tmp_path: Path, case: str) -> None:
    directory = tmp_path / "checkpoint"
    build_checkpoint(directory)
    spoil, message = SPOILT[case]
    spoil(directory)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_checkpoint(directory)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint directory"):
        load_checkpoint(tmp_path / "nowhere")
