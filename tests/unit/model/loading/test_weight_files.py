"""Weight files with any damage load, or end with an error about the checkpoint: nothing else, and no wild memory."""

import contextlib
import json
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdlm.model.config import CheckpointError
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.support.models.checkpoints import build_checkpoint

LIMITS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@cache
def intact() -> tuple[Path, bytes]:
    directory = build_checkpoint(Path(tempfile.mkdtemp()) / "checkpoint")
    return directory, (directory / "model.safetensors").read_bytes()


def load(content: bytes) -> None:
    directory, _ = intact()
    (directory / "model.safetensors").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        load_checkpoint(directory)


@LIMITS
@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_changed_bytes(place: int, change: bytes) -> None:
    _, content = intact()
    load(content[:place] + change + content[place + len(change) :])


@LIMITS
@given(st.integers(0, 2**64 - 1))
def test_any_length_of_the_header(length: int) -> None:
    _, content = intact()
    load(struct.pack("<Q", length) + content[8:])


VALUES = st.one_of(
    st.integers(-(2**70), 2**70), st.text(max_size=8), st.none(), st.lists(st.integers(-5, 2**63), max_size=3)
)


@LIMITS
@given(st.sampled_from(["dtype", "shape", "data_offsets"]), VALUES, st.integers(0, 30))
def test_any_value_in_the_header(field: str, value: Any, number: int) -> None:
    _, content = intact()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    tensors = [name for name in header if name != "__metadata__"]
    header[tensors[number % len(tensors)]][field] = value
    changed = json.dumps(header).encode()
    load(struct.pack("<Q", len(changed)) + changed + content[8 + size :])
