"""Whatever keeps the engine from starting ends the start with one line; one that has served returns."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from tests.e2e.reliability.load import engine_of
from tests.support.matrix import some
from tests.support.server.served import running_server

LIMIT = "import resource, sys; n = int(sys.argv.pop(1)); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); "
MAIN = "from cdlm.cli.main import main; main()"


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CDLM_") and name != "TMPDIR"}
    return kept | {"CDLM_MODEL": "cdlm-nano"} | variables


def refused(command: list[str], **keywords: object) -> str:
    """The one line of a server that must not start."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **keywords)  # type: ignore[call-overload]
    said = done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if " ERROR " in line]
    assert len(lines) == 1, said
    assert lines[0].split(" ERROR ", 1)[1].startswith("cdlm: cannot "), said
    return lines[0]


def serve(*flags: str) -> list[str]:
    return [sys.executable, "-m", "cdlm", "serve", "--port", "0", "--threads", "1", *flags]


def test_a_tmpdir_that_nothing_can_be_written_to_is_passed_over(tmp_path: Path) -> None:
    with running_server(tmp_path / "log", TMPDIR="/proc") as server:
        server.complete()


@pytest.mark.parametrize("files", [14, 18])
def test_too_few_file_descriptors(files: int) -> None:
    command = [sys.executable, "-c", LIMIT + MAIN, str(files), "serve", "--port", "0", "--threads", "1"]
    assert "Too many open files" in refused(command, env=environment())


def test_an_interpreter_that_is_gone(tmp_path: Path) -> None:
    code = f"import sys; sys.executable = {str(tmp_path / 'gone')!r}; " + MAIN
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    assert "the engine process could not be started: [Errno 2]" in refused(command, env=environment())


@pytest.mark.spawns
def test_an_engine_that_is_killed_while_it_loads(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'cdlm.scheduler.process.server' in sys.orig_argv: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said = refused(serve(), env=environment(PYTHONPATH=str(tmp_path)))
    assert "the engine process was ended by SIGKILL while it loaded the model" in said


# The first is read by the engine, the last by the server.
@pytest.mark.parametrize("name", some(["model.safetensors", "config.json", "tokenizer_config.json"], every=2))
def test_a_file_of_the_model_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_STUDENT, model)
    (model / name).unlink()
    (model / name).mkdir()  # Cannot be read by root either.
    assert name in refused(serve("--model", str(model)), env=environment())


def test_an_engine_that_has_served_returns_when_its_directory_does(tmp_path: Path) -> None:
    """The first new start fails: the engine is not done for, and the server stays alive."""
    model, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(BUNDLED_STUDENT, model)
    with running_server(tmp_path / "log", "--model", str(model)) as server:
        before = server.complete()["choices"]
        model.rename(away)
        os.kill(engine_of(server), signal.SIGKILL)
        server.wait_for(lambda: "no such checkpoint directory" in server.log.read_text(), 120)
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/livez").status_code == 200
        assert server.post("/v1/completions", {"prompt": "hello"}).status_code == 503
        away.rename(model)
        server.wait_ready()
        assert server.complete()["choices"] == before
        assert server.client.get("/livez").status_code == 200
        assert server.metric("cdlm_engine_restarts_total") >= 2


def test_an_engine_returns_without_room_for_its_sockets(tmp_path: Path) -> None:
    """TMPDIR is gone when the engine dies."""
    with tempfile.TemporaryDirectory() as gone, running_server(tmp_path / "log", TMPDIR=gone) as server:
        shutil.rmtree(gone)
        os.kill(engine_of(server), signal.SIGKILL)
        server.wait_for(lambda: server.client.get("/readyz").status_code == 503)
        server.wait_ready()
        server.complete()
        os.mkdir(gone)
