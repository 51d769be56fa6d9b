"""Reads the files of a checkpoint or adapter directory; every problem is a ``CheckpointError`` that names the file."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cdlm.model.config import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor  # A server process reads files, and is started without torch.


def read_json(directory: Path, name: str) -> dict[str, object]:
    """Reads the JSON object in ``directory / name``."""
    path = inside(directory, name)
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(directory: Path, name: str) -> Path:
    """The path of ``directory / name``, which must exist and, links followed, lie inside the directory.

    A snapshot in the Hugging Face cache, ``models--owner--name/snapshots/COMMIT``, consists of links to ``blobs`` of
    the same repository; these are allowed too.

    Raises:
        CheckpointError: the directory or file does not exist, or the file lies elsewhere.
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
    """Raises ``CheckpointError`` for any file in ``directory`` that links out of it."""
    for path in directory.iterdir():
        if path.is_symlink() and path.is_file():
            inside(directory, path.name)


def weights_file(directory: Path, name: str) -> Path:
    """Like ``inside``; the error says so if the directory holds pickled weights instead."""
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickled and not (directory / name).exists():
        raise CheckpointError(f"{directory / pickled[0]}: pickled weights are refused; convert them to safetensors")
    return inside(directory, name)


def read_tensors(paths: Iterable[Path]) -> Iterator[tuple[Path, str, "Tensor"]]:
    """Yields (file, name, tensor on the CPU) for each tensor of the safetensors files, one in memory at a time."""
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    yield path, name, file.get_tensor(name)
        except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: mapping failed.
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error


def read_shapes(paths: Iterable[Path]) -> Iterator[tuple[Path, str, list[int], str]]:
    """Yields (file, name, shape, dtype as safetensors names it, for example ``BF16``); reads no tensor."""
    for path in paths:
        try:
            # With "pt" the library would map the whole file as writable memory.
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    yield path, name, part.get_shape(), part.get_dtype()
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
