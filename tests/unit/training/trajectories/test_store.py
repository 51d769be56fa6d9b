"""Trajectories on disk: round trip, what is refused, and who may read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cdlm.training.errors import TrainingError
from cdlm.training.trajectories.shard import Provenance
from cdlm.training.trajectories.store import TrajectoryStore, TrajectoryWriter
from cdlm.training.trajectories.trajectory import Trajectory
from tests.support.models.checkpoints import EOS, MASK

PROVENANCE = Provenance(
    tokenizer="words",
    teacher="weights",
    block_length=4,
    generation_length=8,
    hidden_size=3,
    mask_id=MASK,
    shift=True,
    temperatures=(0.0, 0.3),
    seed=1,
)


def made_up(number: int) -> Trajectory:
    """Every value of the record differs from its neighbors'."""
    length = 4 * (1 + number % 2)
    order = torch.cat([start + torch.randperm(4) for start in range(0, length, 4)])
    return Trajectory(
        [number + 1] * (1 + number),
        [number + 10, EOS],
        torch.arange(length) + number,
        order,
        torch.randn(length, 3).bfloat16(),
        (0.0, 0.3)[number % 2],
        8,
    )


def assert_same(found: Trajectory, wanted: Trajectory) -> None:
    for name in ("prompt", "truth", "temperature", "generation_length"):
        assert getattr(found, name) == getattr(wanted, name)
    for name in ("tokens", "order", "hidden"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))


def write_store(directory: Path) -> list[Trajectory]:
    trajectories = [made_up(number) for number in range(5)]
    writer = TrajectoryWriter(directory, PROVENANCE)
    writer.write(0, trajectories[:3])
    writer.write(1, trajectories[3:])
    writer.finish(2, {})
    return trajectories


def open_store(directory: Path, **changes: Any) -> TrajectoryStore:
    reader: dict[str, Any] = {"tokenizer_fingerprint": "words", "block_length": 4, "hidden_size": 3, **changes}
    return TrajectoryStore.open(directory, **reader)


def test_round_trip(tmp_path: Path) -> None:
    trajectories = write_store(tmp_path)
    store = open_store(tmp_path)
    assert len(store) == 5
    for found, wanted in zip(store, trajectories, strict=True):
        assert_same(found, wanted)
    assert_same(store[-1], trajectories[4])
    assert [item.prompt for item in store[1:4]] == [item.prompt for item in trajectories[1:4]]
    with pytest.raises(IndexError):
        store[5]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["count"] == 5
    assert [entry["count"] for entry in manifest["shards"]] == [3, 2]
    assert {key: manifest[key] for key in ("mask_id", "shift", "temperatures", "teacher", "generation_length")} == {
        "mask_id": MASK,
        "shift": True,
        "temperatures": [0.0, 0.3],
        "teacher": "weights",
        "generation_length": 8,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_fingerprint": "other"}, "tokenizer fingerprint words, the student has other"),
        ({"block_length": 8}, "block length 4, the student has 8"),
        ({"hidden_size": 4}, "hidden size 3, the student has 4"),
    ],
)
def test_another_student_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_store(tmp_path)
    with pytest.raises(TrainingError, match=message):
        open_store(tmp_path, **changes)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"manifest\.json is missing"):
        open_store(tmp_path)
    write_store(tmp_path)
    shard, manifest = tmp_path / "shard-00001.safetensors", tmp_path / "manifest.json"
    whole, text = shard.read_bytes(), manifest.read_text()
    shard.unlink()
    with pytest.raises(TrainingError, match=r"shard-00001\.safetensors is missing"):
        open_store(tmp_path)
    for damaged in (whole[:-10], whole[:4], b""):
        shard.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"shard-00001\.safetensors is corrupt or cut off"):
            open_store(tmp_path)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TrainingError, match=r"shard-00001\.safetensors is corrupt: its checksum"):
        open_store(tmp_path)
    shutil.copy(tmp_path / "shard-00000.safetensors", shard)
    with pytest.raises(TrainingError, match=r"shard-00001\.safetensors holds 3 trajectories, the manifest says 2"):
        open_store(tmp_path)
    shard.write_bytes(whole)
    assert len(open_store(tmp_path)) == 5
    for wrong, message in (
        (text[:20], "cannot be read"),
        ("[]", "cannot be read"),
        (text.replace('"shards"', '"shreds"'), "lacks shards"),
        (text.replace('"version": 1', '"version": 2'), "format version 2"),
    ):
        manifest.write_text(wrong)
        with pytest.raises(TrainingError, match=message):
            open_store(tmp_path)


def test_an_order_across_blocks_is_not_written(tmp_path: Path) -> None:
    wrong = Trajectory([1], [EOS], torch.arange(8), torch.arange(8).flip(0), torch.zeros(8, 3).bfloat16(), 0.0, 8)
    with pytest.raises(ValueError, match="block by block"):
        TrajectoryWriter(tmp_path, PROVENANCE).write(0, [wrong])
    assert not list(tmp_path.iterdir())
