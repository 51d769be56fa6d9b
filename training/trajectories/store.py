"""A directory of trajectories: shards, and a manifest of their origin. Written shard by shard, resumable."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import torch
from transformers import PreTrainedTokenizerBase

from cdlm.model.network.transformer import Transformer
from cdlm.training.errors import TrainingError
from cdlm.training.trajectories.shard import Problem, Provenance, Shard, write_shard
from cdlm.training.trajectories.trajectory import Trajectory

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


class TrajectoryWriter:
    """Writes a store. Shards are independent and written atomically: several processes can write different ones."""

    def __init__(self, directory: Path, provenance: Provenance) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.provenance = directory, provenance

    def done(self, number: int, problems: Sequence[Problem]) -> bool:
        """Whether shard ``number`` already holds the trajectories of ``problems``.

        Raises:
            TrainingError: the shard has other problems or another teacher, or cannot be read.
        """
        path = self._path(number)
        if not path.exists():
            return False
        shard = self.shard(number)
        if shard.provenance != self.provenance.to_json():
            raise TrainingError(f"{path} was made by another teacher or with other settings: remove {self.directory}")
        if [shard.problem(index) for index in range(len(shard))] != list(problems):
            raise TrainingError(f"{path} holds trajectories of other problems: remove it to collect it again")
        return True

    def write(self, number: int, trajectories: Sequence[Trajectory]) -> None:
        """Writes shard ``number`` atomically."""
        write_shard(self._path(number), trajectories, self.provenance)

    def shard(self, number: int) -> Shard:
        """Opens shard ``number``.

        Raises:
            TrainingError: it is missing or unreadable.
        """
        return Shard(self._path(number))

    def _path(self, number: int) -> Path:
        return self.directory / f"shard-{number:05d}.safetensors"

    def finish(self, shards: int, quality: dict[str, dict[str, float]]) -> None:
        """Writes the manifest: the store has shards 0 .. ``shards`` - 1 and the figures ``quality``."""
        paths = [self._path(number) for number in range(shards)]
        counts = [len(Shard(path)) for path in paths]
        manifest = {
            "version": FORMAT_VERSION,
            **asdict(self.provenance),
            "count": sum(counts),
            "quality": quality,
            "shards": [
                {"file": path.name, "count": count, "sha256": _digest(path)}
                for path, count in zip(paths, counts, strict=True)
            ],
        }
        partial = self.directory / f"{MANIFEST_FILE}.partial"
        partial.write_text(json.dumps(manifest, indent=2) + "\n")
        os.replace(partial, self.directory / MANIFEST_FILE)


class TrajectoryStore(Sequence[Trajectory]):
    """The trajectories of a finished store, read from memory-mapped shards one by one; see ``open``."""

    def __init__(self, manifest: dict[str, Any], shards: list[Shard]) -> None:
        self.manifest, self._shards = manifest, shards
        self._ends = list(accumulate(len(shard) for shard in shards))

    @classmethod
    def open(
        cls, directory: Path, *, tokenizer_fingerprint: str, block_length: int, hidden_size: int
    ) -> "TrajectoryStore":
        """Opens a store; verifies that it fits its reader, and the checksum of each shard.

        Raises:
            TrainingError: there is no manifest, it was made for another tokenizer, block length or hidden size, or
                a shard is missing, shorter than recorded or corrupt. The message names the file and the reason.
        """
        manifest = _read_manifest(directory / MANIFEST_FILE)
        for key, name, wanted in (
            ("tokenizer", "tokenizer fingerprint", tokenizer_fingerprint),
            ("block_length", "block length", block_length),
            ("hidden_size", "hidden size", hidden_size),
        ):
            if manifest[key] != wanted:
                raise TrainingError(f"{directory}: trajectories have {name} {manifest[key]}, the student has {wanted}")
        return cls(manifest, [_verified(directory, entry) for entry in manifest["shards"]])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...

    @overload
    def __getitem__(self, index: slice) -> list[Trajectory]: ...

    def __getitem__(self, index: int | slice) -> Trajectory | list[Trajectory]:
        chosen = range(len(self))[index]  # Also resolves negative indexes, and raises IndexError.
        if isinstance(chosen, range):
            return [self[number] for number in chosen]
        shard = bisect_right(self._ends, chosen)
        return self._shards[shard].trajectory(chosen - self._ends[shard] + len(self._shards[shard]))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary and the special ids: equal exactly if ids mean the same tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    named = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "mask")]
    content = json.dumps([vocabulary, named, sorted(tokenizer.all_special_ids)])
    return hashlib.sha256(content.encode()).hexdigest()


def model_fingerprint(model: Transformer) -> str:
    """SHA-256 of the names, types and values of the weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        missing = {"tokenizer", "block_length", "hidden_size", "shards"} - manifest.keys()
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: run the trajectories stage to its end first") from error
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    if manifest.get("version") != FORMAT_VERSION:
        raise TrainingError(f"{path}: format version {manifest.get('version')}, this program reads {FORMAT_VERSION}")
    if missing:
        raise TrainingError(f"{path} lacks {', '.join(sorted(missing))}")
    return manifest


def _verified(directory: Path, entry: dict[str, Any]) -> Shard:
    path = directory / str(entry["file"])
    shard = Shard(path)
    if len(shard) != entry["count"]:
        raise TrainingError(f"{path} holds {len(shard)} trajectories, the manifest says {entry['count']}")
    if _digest(path) != entry["sha256"]:
        raise TrainingError(f"{path} is corrupt: its checksum is not the one in the manifest")
    return shard


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
