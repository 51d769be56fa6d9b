"""The wheel in an empty environment: what is in it, that it serves, and that no other package's name is in its way."""

import email
import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.matrix import some
from tests.support.places import ROOT
from tests.support.server.served import Server, free_port

NOBODY = 65534


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def venv(folder: Path) -> Path:
    return install(folder)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of somebody else's, with packages and modules of the names that the rooms have here."""
    for name in ("model", "server"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    for name in ("cli", "training", "scheduler"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    return tmp_path


OWN = (
    "import cli, model, scheduler, server, training\nassert cli.MINE and model.MINE and server.MINE and training.MINE\n"
)
VARIABLES = {
    "PATH": os.environ["PATH"],
    "OMP_NUM_THREADS": "1",
    "HOME": os.environ.get("HOME", "/"),
    "CDLM_MODEL": "cdlm-nano",
}


def test_what_is_in_the_wheel(folder: Path, venv: Path) -> None:
    (wheel,) = (folder / "wheels").glob("cdlm_serve-*.whl")
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"cdlm", "cdlm_serve"}
    rooms = {name.split("/")[1] for name in names if name.startswith("cdlm/") and name.count("/") > 1}
    assert rooms == {"cli", "model", "scheduler", "server", "training"}
    assert {"cdlm/py.typed", "cdlm/__main__.py", "cdlm/server/page/static/page.js"} <= set(names)
    assert "cdlm/model/assets/cdlm-nano/model.safetensors" in names
    adapters = [entry for entry in archive.infolist() if entry.filename.endswith("adapter_model.safetensors")]
    assert "cdlm/model/assets/cdlm-smol/tasks/adapter_model.safetensors" in {entry.filename for entry in adapters}
    assert sum(entry.file_size for entry in adapters) <= 25e6
    assert not [name for name in names if "__pycache__" in name or "test" in name.lower().rpartition("/")[2]]
    metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    licensed = archive.read(next(name for name in names if name.endswith("dist-info/licenses/LICENSE")))
    # The text as the Apache Software Foundation has it for use in a repository, to the byte.
    assert hashlib.sha256(licensed).hexdigest() == "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
    assert "Apache\nLicense 2.0" in archive.read("cdlm/model/assets/README.md").decode()
    rooms_alone = "('cli', 'model', 'scheduler', 'server', 'training')"
    code = f"import importlib.util as u; print([name for name in {rooms_alone} if u.find_spec(name)])"
    dependencies = next(venv.glob("lib/python*/site-packages/dependencies.pth"))
    kept = dependencies.read_text()
    dependencies.write_text("")
    try:
        assert run(f"{venv}/bin/python", "-I", "-c", code) == "[]\n"
    finally:
        dependencies.write_text(kept)


@pytest.mark.parametrize("ranks", some([1, 2], every=2))
def test_a_script_beside_packages_of_the_same_names(venv: Path, project: Path, ranks: int) -> None:
    script = project / "script.py"
    script.write_text(
        f"{OWN}import cdlm\n"
        f"with cdlm.LLM('cdlm-nano', threads=1, tensor_parallel_size={ranks}) as llm:\n"
        "    [answer] = llm.generate('Hello', cdlm.SamplingParams(max_tokens=5, ignore_eos=True))\n"
        "    print(len(answer.outputs[0].token_ids))\n"
        "import cdlm.model\nassert model.MINE and cdlm.model is not model\n"
    )
    done = subprocess.run(
        [f"{venv}/bin/python", "script.py"], cwd=project, env=VARIABLES, capture_output=True, text=True, timeout=200
    )
    assert done.stdout == "5\n", done.stderr


# The wheel serves in a case below; commands beside such files are in tests/e2e/start/test_working_directory.py.
@pytest.mark.whole
@pytest.mark.parametrize("command", [["python", "-m", "cdlm"], ["cdlm"]])
def test_commands_beside_packages_of_the_same_names(venv: Path, project: Path, command: list[str]) -> None:
    arguments = [f"{venv}/bin/{command[0]}", *command[1:], "generate", "Hello", "--max-tokens", "4", "--threads", "1"]
    done = subprocess.run(arguments, cwd=project, env=VARIABLES, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_the_wheel_serves_from_a_read_only_folder(folder: Path, venv: Path) -> None:
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
        "CDLM_MODEL": "cdlm-nano",
    }
    code = "import cdlm, cdlm.model.assets; print(cdlm.__file__, cdlm.__version__)"
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
