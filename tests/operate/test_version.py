"""The version stands in ``pyproject.toml``; what has to repeat it says the same."""

import re
import subprocess
import sys
import tomllib

import yaml

import cdlm
from cdlm.server.schema.examples import EXAMPLES
from tests.operate.expressions import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# An image, a wheel or an sdist of this project, with a version.
NAMED = re.compile(r"cdlm[-_]serve[:-]v?(\d+\.\d+\.\d+[\w.-]*)")


def test_what_is_installed_says_it() -> None:
    assert cdlm.__version__ == VERSION, "make install brings the installed version up to date"
    done = subprocess.run([sys.executable, "-m", "cdlm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cdlm {VERSION}\n"


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
