"""A process that is forked from the zygote of the tests is what it is when it is spawned."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cdlm.scheduler import child
from tests.e2e.reliability.load import children, engine_of
from tests.support.forks import script, starts
from tests.support.server.served import running_server

pytestmark = pytest.mark.skipif(not starts.POSSIBLE, reason="forks are made where no GPU is")


def portrait(directory: Path, **variables: str) -> dict[str, Any]:
    """What a process says of itself, which runs with a pipe, a file and one more descriptor."""
    reading, writing = os.pipe()
    with (directory / "said").open("w+") as file:
        done = subprocess.run(
            child.command("tests.support.forks.portrait", "7", "a b"), cwd=directory, pass_fds=[writing], input="hello",
            env=child.environment() | variables, stdout=subprocess.PIPE, stderr=file, text=True, timeout=60,
        )  # fmt: skip
        file.seek(0)
        assert file.read() == ""
    os.close(reading)
    os.close(writing)
    assert done.returncode == 7
    said, *at_exit = done.stdout.splitlines()
    assert at_exit == ["a thread has ended", "the end"]
    found = json.loads(said)
    found["files"][:2] = [name.partition(":")[0] for name in found["files"][:2]]  # Pipes have numbers.
    return found


def test_a_fork_is_as_if_spawned(tmp_path: Path) -> None:
    variables = {"CDLM_MODEL": "mine", "TMPDIR": str(tmp_path)}
    forked = portrait(tmp_path, **variables)
    starts.spawn()
    assert forked == portrait(tmp_path, **variables)
    assert forked["variables"]["CDLM_MODEL"] == "mine"
    assert f"PPid:\t{os.getpid()}" in forked["status"]


def test_forks_are_what_is_tested_here(tmp_path: Path) -> None:
    forked = subprocess.Popen(child.command("tests.support.forks.portrait", "wait"), stdin=-3, stdout=-1)
    with forked:
        assert forked.stdout is not None
        forked.stdout.readline()
        maps = Path(f"/proc/{forked.pid}/maps").read_text()
        forked.send_signal(signal.SIGTERM)
    assert forked.returncode == -signal.SIGTERM
    assert "libtorch" in maps  # Which a portrait does not import.


def test_a_server_its_engine_and_its_rank_are_forked(tmp_path: Path) -> None:
    with running_server(tmp_path / "log", "--tensor-parallel-size", "2") as server:
        engine = engine_of(server)
        (rank,) = children(engine)
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (server.process.pid, engine, rank)]
    places = [{line.split("-")[0] for line in text.splitlines() if "libtorch" in line} for text in maps]
    assert places[0]
    assert set.intersection(*places), "it was loaded into one of them anew, at other addresses"


def test_a_script_is_what_it_is_on_a_command_line(tmp_path: Path) -> None:
    """Its names live until it ends, and its arguments are its own."""
    code = "import atexit, sys; kept = sys.argv[1:]; atexit.register(lambda: print(kept, __name__)); sys.exit(3)"
    for command in (script.command(code, "a b"), [sys.executable, "-c", code, "a b"]):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (3, "['a b'] __main__\n", "")


def test_asyncio_gets_its_exit_status() -> None:
    async def status() -> int:
        command = child.command("tests.support.forks.portrait", "3")
        process = await asyncio.create_subprocess_exec(*command, stdin=-3, stdout=-3)
        return await process.wait()

    assert asyncio.run(status()) == 3


@pytest.mark.parametrize(
    ("variables", "fits"),
    [
        ({}, True),
        ({"CDLM_MODEL": "x", "TMPDIR": "/"}, True),
        ({"OMP_NUM_THREADS": "7"}, False),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, False),
        ({"PYTHONPATH": "/"}, False),
        ({"HF_HOME": "/"}, False),
        ({"LD_PRELOAD": ""}, False),
    ],
)
def test_what_imports_may_read_is_not_changed_by_a_fork(variables: dict[str, str], fits: bool) -> None:
    assert starts.tests_zygote().fits(dict(os.environ) | variables) == fits


def test_other_programs_are_spawned() -> None:
    for command in ([sys.executable, "-c", "pass"], [sys.executable, "-m", "json"], ["cdlm", "serve"], "cdlm serve"):
        assert starts.module_of(command) is None
    assert starts.module_of([sys.executable, "-m", "cdlm", "key"]) == ("cdlm.cli.main", ["key"])
    assert starts.module_of(script.command("pass", "5")) == (script.MODULE, ["pass", "5"])
    assert starts.module_of(child.command("cdlm.scheduler.ranks.rank", "5")) == ("cdlm.scheduler.ranks.rank", ["5"])
