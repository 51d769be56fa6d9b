"""The wheel alone serves: in an empty environment, as a user who may write to a scratch folder only."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Server, free_port

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, **options)  # type: ignore
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(folder: Path) -> Path:
    """An environment with the wheel in it; what it depends on is that of the tests. Returns its folder."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"), str(ROOT))
    (wheel,) = (folder / "wheels").glob("cdlm_serve-*.whl")
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    run(*pip, "--python", str(venv / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = venv.glob("lib/python*/site-packages")
    # Behind the wheel on the path; .pth files in there, such as that of an editable install, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def server_user(python: Path) -> int:
    """Nobody, where the tests run as root and others may run its Python at all; else the user of the tests."""
    if os.geteuid() != 0:
        return os.geteuid()
    try:
        subprocess.run([str(python), "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=True, cwd="/")
    except (PermissionError, subprocess.CalledProcessError):
        return os.geteuid()
    return NOBODY


def contents(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_wheel_serves_from_a_read_only_folder(folder: Path) -> None:
    venv = install(folder)
    for path in venv.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    before = contents(venv)
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    user = server_user(venv / "bin/python")
    port = free_port()
    environment = {
        "PATH": f"{venv}/bin",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "CDLM_PORT": str(port),
        "CDLM_THREADS": "1",
    }
    code = "import server, model.assets, importlib.metadata as m; print(server.__file__, m.version('cdlm-serve'))"
    where, version = run(f"{venv}/bin/python", "-I", "-c", code, env=environment).split()
    assert where.startswith(str(venv))
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [f"{venv}/bin/cdlm", "serve"],
            cwd=scratch,
            env=environment,
            user=user,
            group=user if user == NOBODY else None,
            extra_groups=[] if user == NOBODY else None,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait_ready()
        assert f"Uid:\t{user}" in Path(f"/proc/{process.pid}/status").read_text()
        assert server.client.get("/version").json()["version"] == version
        assert server.client.get("/").headers["content-type"].startswith("text/html")
        assert server.client.get("/static/page.js").status_code == 200
        answer = server.complete(prompt="def add(a, b):", max_tokens=64)
        assert answer["choices"][0]["text"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        server.client.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    assert contents(venv) == before
    # torch makes empty folders for caches it does not fill.
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
