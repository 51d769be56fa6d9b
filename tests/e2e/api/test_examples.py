"""The examples of README and docs run as they are written, against one server with the bundled student.

Run are the ``python`` blocks, and the ``sh`` blocks with a ``curl``, but those marked ``no-run``. A ``text`` block
right behind one is its output, word for word.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.server.served import Server

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):8000")
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?", re.M | re.S)
# A curl that fails on an error of the server; the examples leave that out.
STRICT = 'set -euo pipefail\ncurl() { command curl --fail-with-body --silent --show-error --max-time 60 "$@"; }\n'


@dataclass(frozen=True)
class Example:
    """One block of a page, and the output that stands behind it, if any."""

    page: Path
    line: int
    language: str
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples() -> Iterator[Example]:
    """All blocks that are run, page by page."""
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            info, code = match["info"], match["code"]
            if info == "python" or (info == "sh" and re.search(r"^curl ", code, re.M)):
                line = text.count("\n", 0, match.start()) + 1
                yield Example(page, line, info, code, match["output"])


EXAMPLES = list(examples())
CURLS = [example for example in EXAMPLES if example.language == "sh"]
PYTHON = {page: [e for e in EXAMPLES if e.language == "python" and e.page == page] for page in PAGES}


def aimed_at(server: Server, code: str) -> str:
    return ADDRESS.sub(server.url.removeprefix("http://"), code)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("example", CURLS, ids=str)
def test_a_curl_command_is_answered(server: Server, example: Example) -> None:
    command = aimed_at(server, example.code)
    assert command != example.code
    result = subprocess.run(["bash", "-c", STRICT + command], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip()
    if '"stream": true' in command:
        events = [line for line in result.stdout.split("\n\n") if line]
        assert all(event.startswith("data: {") for event in events[:-1])
        assert len(events) >= 3
        assert events[-1] == "data: [DONE]"
    if example.output is not None:
        assert result.stdout.strip() == example.output.strip()


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON[page]], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs_from_top_to_bottom(server: Server, page: Path, tmp_path: Path) -> None:
    mark = "=== example "
    code = "".join(f"print({f'{mark}{number}'!r})\n{e.code}\n" for number, e in enumerate(PYTHON[page]))
    command = [sys.executable, "-W", "error", "-c", aimed_at(server, code)]
    offline = {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)}  # Where no model is named it is the bundled one.
    environment = os.environ | offline
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    outputs = [part.partition("\n")[2] for part in result.stdout.split(mark)[1:]]
    assert len(outputs) == len(PYTHON[page])
    for example, output in zip(PYTHON[page], outputs, strict=True):
        assert output.strip(), example
        if example.output is not None:
            assert output.strip() == example.output.strip(), example


def test_there_are_examples_of_both_kinds() -> None:
    assert len(CURLS) >= 10
    assert sum(map(len, PYTHON.values())) >= 8
    marks = [match["info"] for page in PAGES for match in FENCE.finditer(page.read_text()) if " " in match["info"]]
    assert set(marks) <= {"python no-run", "sh no-run"}
    assert len(marks) <= 4, "examples that nobody runs grow old"
