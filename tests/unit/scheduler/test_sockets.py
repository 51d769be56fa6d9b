"""Where the directory of an engine's sockets is made."""

import tempfile
from pathlib import Path

import pytest
import zmq

from cdlm.scheduler.process.sockets import socket_directory


@pytest.mark.parametrize("tmpdir", ["{long}", "/nowhere/at/all", "/proc", "/dev/full"])
def test_a_tmpdir_that_is_too_long_or_cannot_be_written_to_is_passed_over(
    tmpdir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("a" * 120)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", tmpdir.format(long=long))
    monkeypatch.setattr(tempfile, "tempdir", None)  # It is looked up once per process.
    with socket_directory() as made, zmq.Context() as context, context.socket(zmq.PULL) as socket:
        assert not made.is_relative_to(tmpdir.format(long=long))
        socket.bind(f"ipc://{made}/in")
        assert (made / "in").exists()
    assert not made.exists()
    assert list(long.iterdir()) == []
