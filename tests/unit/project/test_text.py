"""What README and docs say exists: targets of make, commands, flags, variables, files, the generated page."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from cdlm.server.openai.schema.page import page as parameters
from cdlm.server.settings import ServerSettings
from tests.support.command import cdlm
from tests.support.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"parameters.md", "fields.md"}
WIDE = "240"  # Names of flags are not cut.
COMMANDS = ("serve", "bench", "eval", "plan", "generate", "pull", "key", "train")
# Flags of other programs that pages name on their own.
FOREIGN = {"--cpus", "--use-server-token-count"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def flags_of(command: tuple[str, ...]) -> set[str]:
    """The flags of one sub-command, from its help."""
    result = cdlm(*command, "--help", COLUMNS=WIDE)
    assert result.exit_code == 0, f"cdlm {' '.join(command)}: {result.stderr}"
    flags = set(re.findall(r"--[a-z][a-z0-9-]*", result.stdout))
    return flags | flags_of(("serve",)) if command == ("doctor",) else flags  # It takes what serve takes.


def commands(text: str) -> Iterator[str]:
    """Every call of ``cdlm`` and ``make``, in blocks and in sentences, with continued lines joined."""
    for block in re.findall(r"^```sh[^\n]*\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.findall(r"(?:^|/| )((?:cdlm|make) [^#|>;&`]+)", line.partition(" #")[0])[:1]
    yield from re.findall(r"`((?:cdlm|make) [^`]+)`", text)


def called(command: str) -> tuple[str, ...]:
    """The sub-command of a call of ``cdlm``; all stages of the training have the flags of one."""
    name = command.split()[1]
    return ("train", "student") if name == "train" else (name,)


@every_page
def test_targets_of_make_and_commands_exist_with_their_flags(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(page.read_text()):
        if command.startswith("make "):
            for target in re.findall(r"^make ((?:[a-z-]+ ?)+)", command.partition("ARGS")[0])[:1]:
                for name in target.split():
                    assert re.search(rf"^{name}:", makefile, re.M), command
        elif re.match(r"cdlm [a-z]+", command):
            used = set(re.findall(r"--[a-z][a-z0-9-]*", command))
            assert not (used - flags_of(called(command))), command


def test_stages_of_the_training_exist() -> None:
    known = cdlm("train", "--help", COLUMNS=WIDE).stdout
    named = {stage for page in PAGES for stage in re.findall(r"cdlm train ([a-z][a-z-]+)", page.read_text())}
    assert len(named) >= 8
    assert not [stage for stage in named if not re.search(rf"^│ {stage} ", known, re.M)]


@every_page
def test_flags_and_variables_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    known = FOREIGN.union(*map(flags_of, map(called, map("cdlm {}".format, COMMANDS))))
    named = set(re.findall(r"`(--[a-z][a-z0-9.-]*)", text))
    assert not named - known
    fields = {f"CDLM_{name.upper()}" for name in ServerSettings.model_fields}
    assert not set(re.findall(r"\bCDLM_[A-Z_]+[A-Z]\b", text)) - fields


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/contributing.md"], ids=lambda page: page.name)
def test_linked_files_and_headings_exist(page: Path) -> None:
    """The build of the site looks at links of the docs; that of the README is not on it."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}
            assert anchor in slugs, link


@every_page
def test_lines_are_at_most_100_columns(page: Path) -> None:
    """But tables, and output of programs in ``text`` blocks."""
    if page.name in GENERATED:
        return
    text = re.sub(r"^```text\n.*?^```", "", page.read_text(), flags=re.M | re.S)
    assert not [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]


@every_page
def test_paths_that_are_named_exist(page: Path) -> None:
    """Files and folders of the repository; those with a placeholder in capitals are left out."""
    rooms = "benchmarks|cdlm|deploy|docker|docs|model|scheduler|server|tests|training"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]*)`", page.read_text()):
        made = path.startswith(("docker/secrets", "docker/models", "docker/server.env"))
        assert made or re.search("[A-Z]{4}", path.removesuffix("README.md")) or (ROOT / path).exists(), path


# Words that are spelled otherwise in America, as names of metrics are; "cancelled" is what asyncio calls it.
BRITISH = re.compile(
    r"\w*(?:(?:final|token|quant|normal|util|vector|optim|minim)is(?:e|ed|es|er|ing|ation)\b|[ae]nalyse\b)"
    r"|\w*(?:colour|honour|behaviour|neighbour|favour|flavour)\w*",
    re.I,
)


@every_page
def test_words_have_one_spelling(page: Path) -> None:
    """Names of files and code too."""
    assert not BRITISH.findall(page.read_text())


@pytest.mark.parametrize(
    "room", ["benchmarks", "cdlm/cli", "deploy", "model", "scheduler", "server", "tests", "training"]
)
def test_names_have_one_spelling(room: str) -> None:
    """In code, comments and names of files as well."""
    kinds = {".py", ".md", ".toml", ".js", ".css", ".html", ".yaml"}
    files = [path for path in (ROOT / room).rglob("*") if path.suffix in kinds and path != Path(__file__)]
    assert files
    for path in files:
        assert not BRITISH.findall(f"{path.relative_to(ROOT)}\n{path.read_text()}"), path


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_page_of_parameters_is_up_to_date() -> None:
    """``python -m cdlm.server.openai.schema.page > docs/parameters.md`` makes it anew."""
    assert (ROOT / "docs/parameters.md").read_text() == "".join(parameters())
