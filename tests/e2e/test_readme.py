"""The README's commands and snippets do what it says, copied from it word for word."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Server

README = (ROOT / "README.md").read_text()
ADDRESS = re.compile(r"(localhost|127\.0\.0\.1):8000")


def snippet(language: str, containing: str) -> str:
    """The README's fenced block of that language with that text in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1, containing
    return str(found[0])


def aimed_at(server: Server, code: str) -> str:
    aimed, count = ADDRESS.subn(server.url.removeprefix("http://"), code)
    assert count == 1
    return aimed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_streams_blocks(server: Server) -> None:
    command = aimed_at(server, snippet("sh", "curl -N"))
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    events = [line for line in result.stdout.split("\n\n") if line]
    assert all(event.startswith("data: {") for event in events[:-1])
    assert len(events) >= 3
    assert events[-1] == "data: [DONE]"


def test_the_python_snippet_prints_a_function(server: Server) -> None:
    code = aimed_at(server, snippet("python", "OpenAI("))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.startswith("def ")


def test_the_snippet_without_a_server_prints_an_answer() -> None:
    code = snippet("python", "cdlm.LLM(")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip()


def test_make_targets_and_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in set(re.findall(r"`cdlm ([a-z]+)", README)):
        command = [sys.executable, "-m", "cdlm", name, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
