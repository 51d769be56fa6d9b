"""The docs build as a site without a broken link, and the site loads nothing from other hosts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.places import ROOT

# Elements that make a browser fetch what their attribute names; a link that somebody may click on does not.
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "form": "action"}

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    # Not --quiet: a warning that is not logged does not count for --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(ROOT / "mkdocs.yml", folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "link" and named.get("rel") in ("canonical", "prev", "next"):
            return
        if target := named.get(LOADING.get(tag, "")):
            self.found.append(target)


def loads(page: str) -> Iterator[str]:
    parser = Loads()
    parser.feed(page)
    yield from parser.found


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        page = site / source.relative_to(ROOT / "docs").with_suffix(".html")
        targets = list(loads(page.read_text()))
        assert len(targets) >= 3, page
        for target in targets:
            assert not target.startswith(("http:", "https:", "//")), f"{page.name} loads {target}"
            assert (page.parent / target.partition("?")[0]).resolve().exists(), f"{page.name} loads {target}"


def test_styles_of_the_site_load_nothing_from_elsewhere(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert "url(http" not in sheet.read_text()
        assert "@import" not in sheet.read_text()


def test_a_link_that_leaves_the_docs_names_the_path_in_the_repository(site: Path) -> None:
    page = (site / "runbook.html").read_text()
    assert "<code>docker/prometheus/rules.yml</code>" in page
    assert 'href="../docker' not in page


def test_a_bar_in_code_in_a_table_is_shown_without_its_escape(site: Path) -> None:
    assert "<code>&lt;|fim_prefix|&gt;</code>" in (site / "infilling.html").read_text()


def test_the_mark_of_a_block_that_is_not_run_is_not_shown(site: Path) -> None:
    page = (site / "serving.html").read_text()
    assert "gpu-host" in page.partition("<pre>")[2]
    assert "no-run" not in page


def test_broken_links_stop_the_build(tmp_path: Path) -> None:
    targets = ("first.md", "other.md#second", "../third.md", "/fourth")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n" + " ".join(f"[a]({target})" for target in targets))
    (docs / "other.md").write_text("# Other\n")
    (docs / "hooks.py").write_text((ROOT / "docs/hooks.py").read_text())
    config = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{config}\nnav: [index.md, other.md]\n")
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == 1
    for target in targets:
        assert target.rpartition("/")[2] in result.stdout + result.stderr
