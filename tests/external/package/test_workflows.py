"""The workflows of GitHub: least permissions, actions pinned by hash, and what their own commands do here.

``make check`` holds the files to their schemas and to zizmor.
"""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.places import ROOT

WORKFLOWS = {path.stem: path for path in (ROOT / ".github/workflows").glob("*.yml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[name].read_text())["jobs"]
    return found


def step(workflow: str, job: str, name: str) -> str:
    """The script of a named step."""
    [found] = [one["run"] for one in jobs(workflow)[job]["steps"] if one.get("name") == name]
    return str(found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_and_permissions_are_a_jobs_own(name: str) -> None:
    text = WORKFLOWS[name].read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert yaml.safe_load(text)["permissions"] == {}
    for job in jobs(name).values():
        assert "write-all" not in job["permissions"]
        assert job["timeout-minutes"] <= 90
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])
    assert "secrets." not in text


def test_an_action_has_one_version() -> None:
    pins = re.findall(r"uses: ([\w./-]+)@(\w+ # \S+)", "".join(path.read_text() for path in WORKFLOWS.values()))
    assert len(set(pins)) == len(dict(pins))


def test_ci_runs_the_targets_of_the_makefile_on_every_python() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    scripts = [one.get("run", "") for job in jobs("ci").values() for one in job["steps"]]
    called = {word for line in scripts for word in re.findall(r"\bmake ([a-z]+(?: [a-z]+)*)", line)}
    assert {word for words in called for word in words.split()} <= targets
    assert {"check", "test", "check test"} <= called
    pythons = jobs("ci")["test"]["strategy"]["matrix"]["python"]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert set(named) <= set(pythons)
    assert pythons[0] == PROJECT["requires-python"].removeprefix(">=")


NOTES = """# Changelog

## [Unreleased]

### Added

- Not yet.

## [0.1.10] - 2027-01-02

### Fixed

- Another one.

## [0.1.1] - 2027-01-01

### Added

- The entry.
  And its second line.

## [0.1.0] - 2026-12-01

- Before it.
"""


def take_notes(folder: Path, tag: str) -> int:
    (folder / "CHANGELOG.md").write_text(NOTES)
    script = step("release", "build", "What the changelog says of it")
    variables = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=variables, check=False).returncode


def test_notes_of_a_release_are_its_section(tmp_path: Path) -> None:
    assert take_notes(tmp_path, "v0.1.1") == 0
    notes = (tmp_path / "notes.md").read_text()
    assert notes.split() == ["###", "Added", "-", "The", "entry.", "And", "its", "second", "line."]
    assert take_notes(tmp_path, "v0.1") != 0
    assert take_notes(tmp_path, "v0.2.0") != 0


def test_a_tag_that_is_not_the_version_is_not_released() -> None:
    script = step("release", "build", "The tag is the version")
    for tag, right in ((f"v{PROJECT['version']}", True), ("v99.0.0", False), (PROJECT["version"], False)):
        done = subprocess.run(["bash", "-e", "-c", f"GITHUB_REF_NAME={tag}\n{script}"], cwd=ROOT, check=False)
        assert (done.returncode == 0) == right


def test_the_bug_form_asks_for_the_doctor() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    [asked] = [one for one in form["body"] if "cdlm doctor --json" in one["attributes"].get("label", "")]
    assert asked["validations"]["required"]


def test_hooks_before_a_commit_are_commands_of_make_check() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    entries = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert [entry.split()[0] for entry in entries] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
    assert all(f"\t{entry}" in makefile for entry in entries)
    assert all(hook["language"] == "system" for hook in repository["hooks"])
