"""Reads the files of a checkpoint or adapter directory; every problem is a ``CheckpointError`` that names the file."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdlm.model.config import CheckpointError


def read_json(directory: Path, name: str) -> dict[str, object]:
    """The JSON object in a file of ``directory``."""
    path = inside(directory, name)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def inside(directory: Path, name: str) -> Path:
    """The path of a file that exists in ``directory`` and does not lead out of it.

    A snapshot in the Hugging Face cache, ``models--owner--name/snapshots/COMMIT``, is made of links into ``blobs`` of
    the same repository; these lead nowhere else.

    Raises:
        CheckpointError: there is no such directory or file, or the file lies elsewhere.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    path, home = directory / name, directory.resolve()
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    target = path.resolve()
    if target.is_relative_to(home):
        return path
    if home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs":
        return path
    raise CheckpointError(f"{path}: leads out of the checkpoint directory")


def check_links(directory: Path) -> None:
    """Raises ``CheckpointError`` for a file that leads out of ``directory``, whoever is going to read it."""
    for path in directory.iterdir():
        if path.is_symlink() and path.is_file():
            inside(directory, path.name)


def weights_file(directory: Path, name: str) -> Path:
    """Like ``inside``, and says so where the directory holds pickled weights instead."""
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickled and not (directory / name).exists():
        raise CheckpointError(f"{directory / pickled[0]}: pickled weights are refused; convert them to safetensors")
    return inside(directory, name)


def read_tensors(paths: Iterable[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """Every tensor of the safetensors files, on the CPU, with its file and name; one tensor in memory at a time."""
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    yield path, name, file.get_tensor(name)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch's for a file that it cannot map.
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def read_shapes(paths: Iterable[Path]) -> Iterator[tuple[Path, str, list[int], str]]:
    """Shape and type, as safetensors names it (``BF16``), of every tensor; the tensors are not read."""
    for path in paths:
        try:
            # For torch the library would map the whole file as memory that may be written to.
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    yield path, name, part.get_shape(), part.get_dtype()
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
