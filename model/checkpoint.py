"""Loads a checkpoint directory: ``config.json`` and safetensors weights, sharded or not. Never pickle."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.backbones import Backbone, find_backbone
from model.config import CheckpointError, Manifest
from model.transformer import Transformer

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A transformer on its device, ready to run, and how its blocks are decoded."""

    transformer: Transformer
    manifest: Manifest


def load_checkpoint(
    directory: Path,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    block_length: int | None = None,
    confidence_threshold: float | None = None,
) -> Checkpoint:
    """Builds the backbone that ``config.json`` describes and fills it with the stored weights.

    ``block_length`` and ``confidence_threshold`` replace the manifest's values.

    Raises:
        CheckpointError: a file is missing, unreadable or leads out of the directory; a tensor is missing,
            unknown or misshapen; the format is not known.
    """
    config = read_json(directory, "config.json")
    backbone = find_backbone(config.get("model_type"))
    shape, manifest = backbone.read(config)
    if block_length is not None:
        manifest = replace(manifest, block_length=block_length)
    if confidence_threshold is not None:
        manifest = replace(manifest, confidence_threshold=confidence_threshold)
    target = device or torch.device("cpu")
    with torch.device("meta"):
        transformer = Transformer(shape)
    transformer.to_empty(device=target).to(dtype)
    transformer.tie_weights()
    transformer.rotary.reset(target)
    _fill(transformer, backbone, directory)
    return Checkpoint(transformer.eval().requires_grad_(False), manifest)


def read_json(directory: Path, name: str) -> dict[str, object]:
    """A JSON object from a checkpoint file; problems are ``CheckpointError`` naming the file."""
    path = _inside(directory, name)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _inside(directory: Path, name: str) -> Path:
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    path = directory / name
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    if not path.resolve().is_relative_to(directory.resolve()):
        raise CheckpointError(f"{path}: leads out of the checkpoint directory")
    return path


def _weight_files(directory: Path) -> list[Path]:
    if (directory / INDEX_FILE).exists():
        weight_map = read_json(directory, INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{directory / INDEX_FILE}: weight_map is missing")
        return [_inside(directory, str(name)) for name in sorted(set(weight_map.values()))]
    if (directory / SINGLE_FILE).exists():
        return [_inside(directory, SINGLE_FILE)]
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickled:
        raise CheckpointError(f"{directory / pickled[0]}: pickled weights are refused; convert them to safetensors")
    raise CheckpointError(f"{directory / SINGLE_FILE}: missing")


def _tensors(files: list[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    yield path, name, file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def _fill(transformer: Transformer, backbone: Backbone, directory: Path) -> None:
    wanted = dict(transformer.named_parameters())  # A tied head is listed once, as the embedding.
    filled: set[str] = set()
    for path, stored, tensor in _tensors(_weight_files(directory)):
        name = backbone.weight_name(stored)
        if name == "lm_head.weight" and transformer.config.tie_word_embeddings:
            continue
        if name not in wanted:
            raise CheckpointError(f"{path}: tensor {stored!r} is not part of this architecture")
        parameter = wanted[name]
        if tensor.shape != parameter.shape:
            expected, found = tuple(parameter.shape), tuple(tensor.shape)
            raise CheckpointError(f"{path}: tensor {stored!r} has shape {found}, expected {expected}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: tensor {stored!r} has dtype {tensor.dtype}, expected a float type")
        parameter.data.copy_(tensor)
        filled.add(name)
    missing = sorted(wanted.keys() - filled)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(f"{directory}: missing tensors: {', '.join(missing[:3])}{more}")
