"""The directory that a user stands in holds files with the names of packages: none of them is executed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.matrix import some
from tests.support.server.served import Server, free_port

pytestmark = pytest.mark.spawns

OURS = ("cdlm", "cli", "server", "scheduler", "model", "training")
OTHERS = (
    "torch",
    "json",
    "msgspec",
    "numpy",
    "zmq",
    "uvicorn",
    "typer",
    "logging",
    "safetensors",
    "setproctitle",
    "random",
)
CDLM = str(Path(sys.executable).with_name("cdlm"))


@pytest.fixture
def standing(tmp_path: Path) -> Path:
    """A directory of files that leave a trace when they are executed."""
    directory = tmp_path / "standing"
    directory.mkdir()
    for name in (*OURS, *OTHERS):
        (directory / f"{name}.py").write_text(
            f"open({str(tmp_path / 'executed')!r}, 'a').write('{name} ')\nraise ImportError('this is not {name}')\n"
        )
    return directory


def executed(standing: Path) -> str:
    trace = standing.parent / "executed"
    return trace.read_text() if trace.exists() else ""


@pytest.mark.parametrize("ranks", some([2, 1], every=2))
def test_a_server_and_its_processes_import_nothing_of_it(standing: Path, ranks: int, tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    flags = ["--port", str(port), "--threads", "1", "--tensor-parallel-size", str(ranks)]
    with log.open("wb") as sink:
        process = subprocess.Popen([CDLM, "serve", *flags], cwd=standing, stdout=sink, stderr=sink)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait_ready()
        assert server.complete()["choices"][0]["text"]
    finally:
        server.client.close()
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    assert executed(standing) == ""


@pytest.mark.parametrize("command", some([[sys.executable, "-m", "cdlm"], [CDLM]], every=2))
def test_commands_in_one_process_import_nothing_of_it(standing: Path, command: list[str]) -> None:
    (standing / "cdlm.py").unlink()  # With -m the user asks for it.
    arguments = ["generate", "hello", "--max-tokens", "4"]
    done = subprocess.run([*command, *arguments], cwd=standing, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert executed(standing) == ""


def test_an_empty_part_of_pythonpath_is_not_the_working_directory(standing: Path, tmp_path: Path) -> None:
    """``PYTHONPATH=$PYTHONPATH:/mine`` where it was not set: the parts that say something stay."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text("def main(): pass")
    program = (
        "import subprocess; from cdlm.scheduler import child; "
        "print(subprocess.run(child.command('own'), env=child.environment()).returncode, "
        "subprocess.run(child.command('cdlm.cli.main', 'key', 'anne'), env=child.environment(), stdout=-3).returncode)"
    )
    variables = os.environ | {"PYTHONPATH": f"{os.pathsep}{tmp_path / 'mine'}"}
    run = [sys.executable, "-P", "-c", "import os; os.chdir(os.environ['STANDING']); " + program]
    done = subprocess.run(
        run, cwd=tmp_path, env=variables | {"STANDING": str(standing)}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["0", "0"], done.stderr
    assert executed(standing) == ""
