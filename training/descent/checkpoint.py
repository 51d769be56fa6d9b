"""Training state on disk: safetensors files replaced atomically, so a kill never leaves half a checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def write_atomically(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file beside ``path`` and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def save_state(path: Path, model: nn.Module, optimizers: list[Optimizer], progress: dict[str, int | float]) -> None:
    """Saves weights, optimizer moments and progress counters."""
    tensors: dict[str, Tensor] = {f"model/{name}": tensor.data for name, tensor in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value)
    write_atomically(path, tensors, {"progress": json.dumps(progress)})


def load_state(path: Path, model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Restores what ``save_state`` wrote, in place; returns the progress counters."""
    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        parameters = dict(model.named_parameters())
        for key in file.keys():  # noqa: SIM118 - not a mapping
            kind, _, rest = key.partition("/")
            if kind == "model":
                parameters[rest].data.copy_(file.get_tensor(key))
            else:
                number, index, name = rest.split("/")
                states[int(number)].setdefault(int(index), {})[name] = file.get_tensor(key)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
