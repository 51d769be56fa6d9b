"""A shard: trajectories of different lengths in one safetensors file, concatenated, with offsets."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdlm.training.descent.checkpoint import write_atomically
from cdlm.training.errors import TrainingError
from cdlm.training.trajectories.trajectory import Trajectory

Problem = tuple[list[int], list[int], float]  # Prompt ids, truth ids, temperature.


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The origin of a set of trajectories; equal for all its shards.

    ``tokenizer`` and ``teacher`` are fingerprints. ``seed`` is the seed of the sampling noise.
    """

    tokenizer: str
    teacher: str
    block_length: int
    generation_length: int
    hidden_size: int
    mask_id: int
    shift: bool
    temperatures: tuple[float, ...]
    seed: int

    def to_json(self) -> str:
        """Canonical: equal provenances give equal text."""
        return json.dumps(asdict(self), sort_keys=True)


def write_shard(path: Path, trajectories: Sequence[Trajectory], provenance: Provenance) -> None:
    """Writes a shard atomically.

    Raises:
        ValueError: a trajectory's order does not follow the blocks.
    """
    block = provenance.block_length
    for item in trajectories:
        if not torch.equal(item.order // block, torch.arange(len(item.order)) // block):
            raise ValueError("the order of a trajectory does not go block by block")
    tensors = {
        "prompt": torch.tensor([token for item in trajectories for token in item.prompt]),
        "prompt_offsets": _offsets([len(item.prompt) for item in trajectories]),
        "truth": torch.tensor([token for item in trajectories for token in item.truth]),
        "truth_offsets": _offsets([len(item.truth) for item in trajectories]),
        "tokens": torch.cat([item.tokens for item in trajectories]),
        "order": torch.cat([item.order for item in trajectories]),
        "hidden": torch.cat([item.hidden for item in trajectories]),
        "offsets": _offsets([len(item.tokens) for item in trajectories]),
        "temperature": torch.tensor([item.temperature for item in trajectories], dtype=torch.float64),
    }
    write_atomically(path, tensors, {"provenance": provenance.to_json()})


def _offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)])


class Shard:
    """A shard on disk: small arrays in memory, large ones read on demand.

    Raises:
        TrainingError: the file is missing, cut off, or not a shard; the message names it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise TrainingError(f"{path} is missing: collect the trajectories again to restore it")
        try:
            file: Any = safe_open(path, framework="pt")
            self.provenance = str((file.metadata() or {})["provenance"])
            self._generation_length = int(json.loads(self.provenance)["generation_length"])
            self._temperature: Tensor = file.get_tensor("temperature")
            self._offsets = {
                name: file.get_tensor(offsets).tolist()
                for name, offsets in (
                    ("prompt", "prompt_offsets"),
                    ("truth", "truth_offsets"),
                    ("tokens", "offsets"),
                    ("order", "offsets"),
                    ("hidden", "offsets"),
                )
            }
            self._arrays: dict[str, Any] = {name: file.get_slice(name) for name in self._offsets}  # Not read yet.
            for name, offsets in self._offsets.items():
                if len(offsets) != len(self) + 1 or offsets[-1] != self._arrays[name].get_shape()[0]:
                    raise TrainingError(f"{path} is corrupt: {name} does not agree with its offsets")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise TrainingError(f"{path} is corrupt or cut off: {error}") from error

    def __len__(self) -> int:
        return len(self._temperature)

    def problem(self, index: int) -> Problem:
        """(prompt ids, truth ids, temperature) of a trajectory, without reading the trajectory."""
        prompt, truth = self._part("prompt", index).tolist(), self._part("truth", index).tolist()
        return prompt, truth, float(self._temperature[index])

    def tokens(self, index: int) -> Tensor:
        """The decoded ids, [n] int64."""
        return self._part("tokens", index)

    def trajectory(self, index: int) -> Trajectory:
        """Reads a whole trajectory."""
        prompt, truth, temperature = self.problem(index)
        order, hidden = self._part("order", index), self._part("hidden", index)
        return Trajectory(prompt, truth, self.tokens(index), order, hidden, temperature, self._generation_length)

    def _part(self, name: str, index: int) -> Tensor:
        offsets = self._offsets[name]
        part: Tensor = self._arrays[name][offsets[index] : offsets[index + 1]]
        return part
