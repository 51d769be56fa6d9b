"""Training state of an adapter on disk: its matrices, AdamW's moments and the counters, replaced atomically."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from cdlm.training.backbone.lora import sharded_like, whole
from cdlm.training.descent.checkpoint import write_atomically
from cdlm.training.errors import TrainingError


def save_adapter_state(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: Optimizer,
    progress: dict[str, int | float],
    *,
    write: bool,
) -> None:
    """Gathers the state of ``parameters``; all processes must call it, and the one with ``write`` writes the file."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"model/{name}"] = whole(parameter)
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = whole(value)
    if write:
        write_atomically(path, tensors, {"progress": json.dumps(progress)})


def load_adapter_state(path: Path, parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any]:
    """Restores a state of ``save_adapter_state`` in place, sharded like the parameters; returns the counters.

    Raises:
        TrainingError: the file is of an adapter with other modules or another rank.
    """
    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    stored = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    if {name: value.shape for name, value in stored.items()} != {name: p.shape for name, p in parameters.items()}:
        raise TrainingError(f"{path} is the state of an adapter with other modules or another rank")
    for name, parameter in parameters.items():
        parameter.data.copy_(sharded_like(stored[name], parameter.data))
        prefix = f"optimizer/{name}/"
        moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        optimizer.state[parameter] = {
            key: sharded_like(value, parameter.data) if value.ndim else value  # AdamW's step counter stays here.
            for key, value in moments.items()
        }
    return progress
