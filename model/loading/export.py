"""Writes a checkpoint directory: ``config.json`` (shape and manifest) and ``model.safetensors``."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from cdlm.model.backbones.native import NativeBackbone
from cdlm.model.config import Manifest
from cdlm.model.network.transformer import Transformer


def save_checkpoint(
    directory: Path, model: Transformer, manifest: Manifest, *, dtype: torch.dtype = torch.float32
) -> None:
    """Exports ``model`` so that ``load_checkpoint`` reads it back; each file is replaced atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: model.memory(name).to(dtype).contiguous() for name in model.stored_shapes()}
    config = {
        "model_type": NativeBackbone.model_type,
        "transformer": asdict(model.config),
        "manifest": asdict(manifest),
    }
    partial = directory / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors creates private files.
    os.replace(partial, directory / "model.safetensors")
    partial = directory / "config.json.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(partial, directory / "config.json")
