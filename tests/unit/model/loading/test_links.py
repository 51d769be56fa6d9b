"""Links in a checkpoint directory: those of the Hugging Face cache are followed, others are not."""

import os
import shutil
from pathlib import Path

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from cdlm.model.tokens.tokenizer import load_tokenizer


def snapshot(cache: Path) -> Path:
    """The bundled student as the Hub's library stores it: links into the blobs of the repository."""
    repository = cache / "models--tiny--student"
    directory, blobs = repository / "snapshots" / "c0ffee", repository / "blobs"
    directory.mkdir(parents=True)
    blobs.mkdir()
    for path in BUNDLED_STUDENT.iterdir():
        shutil.copy(path, blobs / f"etag-of-{path.name}")
        (directory / path.name).symlink_to(Path("../../blobs") / f"etag-of-{path.name}")
    return directory


def test_a_snapshot_of_the_cache_loads(tmp_path: Path) -> None:
    directory = snapshot(tmp_path)
    assert load_checkpoint(directory).manifest == load_checkpoint(BUNDLED_STUDENT).manifest
    assert (
        load_tokenizer(directory).backend_tokenizer.to_str()
        == load_tokenizer(BUNDLED_STUDENT).backend_tokenizer.to_str()
    )
    (tmp_path / "current").symlink_to(directory)
    load_checkpoint(tmp_path / "current")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("target", ["secret", "models--other--one/blobs/etag", "models--tiny--student/refs/main"])
def test_links_to_elsewhere_are_refused(tmp_path: Path, name: str, target: str) -> None:
    directory = snapshot(tmp_path)
    elsewhere = tmp_path / target
    elsewhere.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUNDLED_STUDENT / name, elsewhere)
    (directory / name).unlink()
    (directory / name).symlink_to(os.path.relpath(elsewhere, directory))
    load = load_tokenizer if name.startswith("tokenizer") else load_checkpoint
    with pytest.raises(CheckpointError, match=f"{name}: leads out of the checkpoint directory"):
        load(directory)
