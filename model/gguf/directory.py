"""The small files of a checkpoint, wherever its weights are."""

import hashlib
import json
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from cdlm.model.gguf.config import read_config
from cdlm.model.gguf.file import GgufFile, is_gguf
from cdlm.model.places import cache_directory

_FORM = 1  # Of the files that are written here; another number does not find the older ones.

logger = logging.getLogger(__name__)


def checkpoint_directory(model: Path) -> Path:
    """The directory with the configuration and the tokenizer of ``model``: itself, unless it is a GGUF file.

    A GGUF file's are written once, into the user's cache; where that is read-only, into a temporary directory.

    Raises:
        CheckpointError: the file cannot be read, or its architecture or tokenizer is not known.
    """
    if not is_gguf(model):
        return model
    path = model.resolve()
    stamp = path.stat() if path.exists() else None
    return _written(path, (stamp.st_size, stamp.st_mtime_ns) if stamp else (0, 0))


@cache
def _written(path: Path, stamp: tuple[int, int]) -> Path:
    name = f"{path.stem}-{hashlib.sha256(repr((_FORM, str(path), stamp)).encode()).hexdigest()[:16]}"
    home = cache_directory("gguf")
    target = home / name
    if (target / "config.json").exists():
        return target
    file = GgufFile(path)
    try:
        home.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=home))
    except OSError as error:
        target = Path(tempfile.mkdtemp(prefix="cdlm-gguf-"))
        logger.info("%s: its tokenizer is written to %s, since %s cannot be written: %s", path, target, home, error)
        _write(file, target)
        return target
    try:
        _write(file, made)
        made.replace(target)
    except OSError:
        if not (target / "config.json").exists():  # Else another process was first.
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target


def _write(file: GgufFile, directory: Path) -> None:
    from cdlm.model.gguf.tokenizer import write_tokenizer

    (directory / "config.json").write_text(json.dumps(read_config(file)))
    write_tokenizer(file, directory)
