"""Environments of other people's clients, outside of the repository and of the environment that runs the tests."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("CLIENTS_CACHE", "~/.cache/cdlm-clients")).expanduser()

_BUILD_LIMIT_S = 1800


def python_of(name: str) -> Path:
    """The Python of the environment with ``requirements/NAME.txt``; makes it when it is not there or has changed."""
    wanted, folder = HERE / "requirements" / f"{name}.txt", CACHE / name
    python = folder / "bin" / "python"
    if not _made(folder, wanted):
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted))
        _mark(folder, wanted)
    return python


def node_modules(name: str) -> Path:
    """The folder in which npm has installed ``requirements/NAME.json``."""
    wanted, folder = HERE / "requirements" / f"{name}.json", CACHE / name
    if not _made(folder, wanted):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, folder / "package.json")
        _run("npm", "install", "--silent", "--prefix", str(folder))
        _mark(folder, wanted)
    return folder


def _stamp(wanted: Path) -> str:
    return hashlib.sha256(wanted.read_bytes()).hexdigest()


def _made(folder: Path, wanted: Path) -> bool:
    mark = folder / "made-of"
    return mark.is_file() and mark.read_text() == _stamp(wanted)


def _mark(folder: Path, wanted: Path) -> None:
    (folder / "made-of").write_text(_stamp(wanted))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_LIMIT_S)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
