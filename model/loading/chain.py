"""Reads and writes the chain of a gated adapter (``model/network/chain.py``)."""

from pathlib import Path

import torch
from torch import Tensor

from cdlm.model.config import CheckpointError
from cdlm.model.files import read_tensors, weights_file
from cdlm.model.network.chain import Chain

CHAIN_FILE = "chain.safetensors"
_NAMES = ("down.weight", "up.weight")


def read_chain(directory: Path) -> Chain:
    """Reads ``chain.safetensors``, as fp32.

    Raises:
        CheckpointError: the file is missing or unreadable, or its tensors are not those of a chain.
    """
    path = weights_file(directory, CHAIN_FILE)
    tensors: dict[str, Tensor] = {key: tensor for _, key, tensor in read_tensors([path])}
    if tensors.keys() != set(_NAMES):
        raise CheckpointError(f"{path}: holds {', '.join(sorted(tensors)) or 'nothing'}, not {' and '.join(_NAMES)}")
    down, up = (tensors[name].float() for name in _NAMES)
    if not (down.ndim == up.ndim == 2 and down.shape == (up.shape[1], 2 * up.shape[0])):
        raise CheckpointError(f"{path}: down.weight {tuple(down.shape)} and up.weight {tuple(up.shape)} do not fit")
    with torch.device("meta"):
        chain = Chain(*up.shape)
    chain.load_state_dict({"down.weight": down, "up.weight": up}, assign=True)
    return chain.requires_grad_(False)


def chain_tensors(chain: Chain) -> dict[str, Tensor]:
    """The tensors of ``chain.safetensors``, in bfloat16."""
    return {name: tensor.detach().bfloat16().contiguous() for name, tensor in chain.state_dict().items()}
