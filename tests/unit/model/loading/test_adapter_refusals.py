"""An adapter that is anything but plain LoRA over its base is refused at start, by file and key."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.loading.adapter import read_adapter
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.hf_checkpoints import HIDDEN, INTERMEDIATE, build_dream
from tests.support.models.hf_references import dream_base, train_with_peft

# PEFT asks transformers for an attribute that it has renamed since.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def _edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _edit_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def _pickled(directory: Path) -> None:
    (directory / "adapter_model.safetensors").unlink()
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04.")


def _write_decoding(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / "cdlm.json").write_text(text)


_Q = "base_model.model.model.layers.0.self_attn.q_proj"
_DOWN = "base_model.model.model.layers.1.mlp.down_proj"
_NORM = "base_model.model.model.norm"

SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (lambda d: d.rename(d.parent / "gone"), "lora: no such checkpoint directory"),
    "no config": (lambda d: (d / "adapter_config.json").unlink(), "adapter_config.json: missing"),
    "no weights": (lambda d: (d / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: missing"),
    "pickle": (_pickled, "adapter_model.bin: pickled weights are refused"),
    "other method": (_edit_config(peft_type="IA3"), "adapter_config.json: peft_type is 'IA3'"),
    "biases": (_edit_config(bias="lora_only"), "adapter_config.json: bias is 'lora_only'"),
    "dora": (_edit_config(use_dora=True), "adapter_config.json: use_dora is True"),
    "transposed": (_edit_config(fan_in_fan_out=True), "adapter_config.json: fan_in_fan_out is True"),
    "whole modules": (_edit_config(modules_to_save=["lm_head"]), "modules_to_save is ['lm_head']"),
    "repeated layers": (_edit_config(layer_replication=[[0, 2]]), "layer_replication is [[0, 2]]"),
    "changed base": (_edit_config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    "no targets": (_edit_config(target_modules=None), "target_modules is None"),
    "no rank": (_edit_config(r=None), "r is None for"),
    "rank zero": (_edit_config(r=0), "r is 0 for"),
    "broken rank": (_edit_config(r=2.5), "r is 2.5 for"),
    "alpha as text": (_edit_config(lora_alpha="8"), "lora_alpha is '8' for"),
    "bad pattern": (_edit_config(rank_pattern={"q(": 1}), "is not a regular expression"),
    "patterns as list": (_edit_config(alpha_pattern=[1]), "alpha_pattern is [1], not a mapping"),
    "rank mismatch": (_edit_config(r=5), "lora_A.weight' has rank 4, adapter_config.json says 5"),
    "other targets": (_edit_config(target_modules=["q_proj"]), "down_proj.lora_A.weight' is not among the target"),
    "unknown tensor": (
        _edit_weights(lambda t: t.update({f"{_Q}.lora_magnitude_vector": torch.zeros(4)})),
        f"adapter_model.safetensors: tensor '{_Q}.lora_magnitude_vector' is not a LoRA matrix",
    ),
    "not trained in floats": (
        _edit_weights(lambda t: t.update({f"{_Q}.lora_A.weight": torch.zeros(4, HIDDEN, dtype=torch.int8)})),
        f"tensor '{_Q}.lora_A.weight' is not a LoRA matrix",
    ),
    "half a pair": (
        _edit_weights(lambda t: t.pop(f"{_Q}.lora_B.weight")),
        "tensor lora_B of 'model.layers.0.self_attn.q_proj' is missing",
    ),
    "a target without tensors": (
        _edit_weights(lambda t: [t.pop(f"{_Q}.lora_{half}.weight") for half in "AB"]),
        "the tensors of 'model.layers.0.self_attn.q_proj', a target in adapter_config.json, are missing",
    ),
    "no tensors": (_edit_weights(lambda t: t.clear()), "holds no LoRA matrices"),
    "other width": (
        _edit_weights(lambda t: t.update({f"{_DOWN}.lora_A.weight": torch.zeros(4, HIDDEN)})),
        f"'model.layers.1.mlp.down_proj' make an update of shape ({HIDDEN}, {HIDDEN}), "
        f"the base's weight has ({HIDDEN}, {INTERMEDIATE})",
    ),
    "more layers": (
        _edit_weights(lambda t: t.update({k.replace("layers.1", "layers.7"): v.clone() for k, v in t.items()})),
        "module 'model.layers.7.mlp.down_proj' is not a linear layer of the base",
    ),
    "unknown decoding key": (_write_decoding('{"tau": 0.9}'), "unknown keys of an adapter that is not gated: tau"),
    "bad block length": (_write_decoding('{"block_length": 0}'), "cdlm.json: block_length is 0"),
    "bad threshold": (_write_decoding('{"confidence_threshold": 1.5}'), "cdlm.json: confidence_threshold is 1.5"),
    "gated": (_write_decoding('{"gated": true, "mask_token_id": 3, "window": 4}'), "is a gated adapter, which drafts"),
    "gated as a number": (_write_decoding('{"gated": 1}'), "cdlm.json: gated is 1"),
    "gated without a mask": (_write_decoding('{"gated": true, "window": 4}'), "a gated adapter needs mask_token_id"),
    "gated without a window": (_write_decoding('{"gated": true, "mask_token_id": 3}'), "needs window"),
    "gated with no row": (_write_decoding('{"gated": true, "mask_token_id": 3, "window": 0}'), "window is 0"),
    "in place as a number": (
        _write_decoding('{"gated": true, "mask_token_id": 3, "window": 4, "in_place": 1}'),
        "in_place is 1, neither true nor false",
    ),
    "in place without a gate": (_write_decoding('{"in_place": true}'), "of an adapter that is not gated: in_place"),
    "gated student": (_write_decoding('{"gated": true, "block_length": 8}'), "of a gated adapter: block_length"),
    "a window without a gate": (_write_decoding('{"window": 4}'), "of an adapter that is not gated: window"),
    "broken decoding": (_write_decoding("{"), "cdlm.json: cannot be read"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_adapter_is_refused_by_file_and_key(tmp_path: Path, case: str) -> None:
    base = build_dream(tmp_path / "base")
    train_with_peft(dream_base(base), tmp_path / "lora", target_modules=["q_proj", "down_proj"])
    load_checkpoint(base, adapter=tmp_path / "lora")
    spoil, message = SPOILT[case]
    spoil(tmp_path / "lora")
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load_checkpoint(base, adapter=tmp_path / "lora")
    assert str(tmp_path / "lora") in str(caught.value)


def test_a_tensor_of_something_else_than_a_linear_layer_is_refused(tmp_path: Path) -> None:
    base = build_dream(tmp_path / "base")
    train_with_peft(dream_base(base), tmp_path / "lora", target_modules=["q_proj"])
    _edit_config(target_modules=["q_proj", "norm"])(tmp_path / "lora")
    halves = {f"{_NORM}.lora_A.weight": torch.zeros(4, 1), f"{_NORM}.lora_B.weight": torch.zeros(HIDDEN, 4)}
    _edit_weights(lambda tensors: tensors.update(halves))(tmp_path / "lora")
    with pytest.raises(CheckpointError, match=r"module 'model\.norm' is not a linear layer of the base"):
        load_checkpoint(base, adapter=tmp_path / "lora")


def test_a_tied_head_cannot_be_adapted(tmp_path: Path) -> None:
    base = build_dream(tmp_path / "base", tie_word_embeddings=True)
    train_with_peft(dream_base(build_dream(tmp_path / "untied")), tmp_path / "lora", target_modules=["lm_head"])
    with pytest.raises(CheckpointError, match="module 'lm_head' is tied to the embedding"):
        load_checkpoint(base, adapter=tmp_path / "lora")


def test_keys_of_later_releases_of_peft_are_tolerated(tmp_path: Path) -> None:
    train_with_peft(dream_base(build_dream(tmp_path / "base")), tmp_path / "lora", target_modules=["q_proj"])
    _edit_config(some_future_key={"a": 1})(tmp_path / "lora")
    assert len(read_adapter(tmp_path / "lora").updates) == 2


def test_an_adapter_given_as_the_model_is_recognized(tmp_path: Path) -> None:
    train_with_peft(dream_base(build_dream(tmp_path / "base")), tmp_path / "lora", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="holds a LoRA adapter, not a model"):
        load_checkpoint(tmp_path / "lora")
