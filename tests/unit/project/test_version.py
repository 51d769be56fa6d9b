"""The version stands in ``pyproject.toml``; what has to repeat it says the same."""

import re
import tomllib

import yaml

import cdlm
from cdlm.server.openai.schema.examples import EXAMPLES
from tests.support.command import cdlm as command
from tests.support.places import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# An image, a wheel or an sdist of this project, with a version.
NAMED = re.compile(r"cdlm[-_]serve[:-]v?(\d+\.\d+\.\d+[\w.-]*)")


def test_what_is_installed_says_it() -> None:
    assert cdlm.__version__ == VERSION, "make install brings the installed version up to date"
    assert command("--version").stdout == f"cdlm {VERSION}\n"


def test_the_chart_is_that_of_the_version() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/cdlm-serve/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_images_and_files_in_manifests_and_docs_have_it() -> None:
    files = [ROOT / "README.md", ROOT / "Dockerfile", ROOT / "docker-compose.yml"]
    files += [path for room in ("deploy", "docker", "docs") for path in sorted((ROOT / room).rglob("*.*"))]
    texts = {
        path: path.read_text() for path in files if path.suffix in (".md", ".yaml", ".yml", ".json", ".tpl", ".txt")
    }
    found = {(path, version) for path, text in texts.items() for version in NAMED.findall(text)}
    assert any(path.name == "deployment.yaml" for path, _ in found)
    assert {version for _, version in found} == {VERSION}, found


def test_the_documented_answer_of_the_server_has_it() -> None:
    assert EXAMPLES["Version"]["version"] == VERSION


def test_the_changelog_begins_with_what_is_not_released() -> None:
    """Its newest release is this version once there is one, and never a later one."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading
    released = [tuple(map(int, heading.split("]")[0].strip("[").split("."))) for heading in headings[1:]]
    assert released == sorted(released, reverse=True)
    assert not released or released[0] <= tuple(map(int, VERSION.split(".")))


def test_entries_of_the_changelog_stand_under_their_kind() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        before, *parts = re.split(r"^### ", section, flags=re.MULTILINE)
        assert "\n- " not in before, "an entry stands above the first heading"
        names = [part.partition("\n")[0] for part in parts]
        assert set(names) <= kinds
        assert len(set(names)) == len(names)
        assert all("\n- " in part for part in parts)
        # What a merge that keeps both sides would do to lines that one of them has moved.
        entries = [line for line in section.splitlines() if line.startswith("- ")]
        assert len(set(entries)) == len(entries)
