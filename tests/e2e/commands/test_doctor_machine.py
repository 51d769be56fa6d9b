"""``cdlm doctor`` where something is absent from the machine, or in its way."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cdlm.cli.doctor.gpus import gpu_warnings, gpus
from cdlm.cli.doctor.machine import container
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.fetching.names import NAMES
from tests.e2e.commands.test_doctor import TORCH, WITHOUT_GPU, command, commands, doctor
from tests.support.models.named import index_of, stand_in, tiny_gguf


def test_an_id_is_examined_if_it_was_downloaded_and_not_fetched_otherwise(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--nobody--tiny"
    shutil.copytree(BUNDLED_STUDENT, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    there, found = commands(("--model", "nobody/tiny"), ("--model", "nobody/nothing"), HF_HOME=str(tmp_path))
    assert (there["model"]["name"], there["problem"]) == ("nobody/tiny", None)
    assert found["problem"] is None
    assert found["model"] is None
    assert found["warnings"] == [
        "--model nobody/nothing is not downloaded yet: cdlm serve fetches it from the Hub when it starts"
    ]
    assert found["disks"]["hub_cache"]["path"].startswith(str(tmp_path))
    result = command("--model", "nobody/nothing", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    assert "--model nobody/nothing is not downloaded, and HF_HUB_OFFLINE forbids" in result.stdout


def test_names_are_examined_and_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, adapter = tiny_gguf(tmp_path)
    monkeypatch.setitem(NAMES, "cdlm-smol", stand_in(content, adapter))
    monkeypatch.delenv("CDLM_MODEL")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with index_of(content) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.address)
        found = doctor()
        assert found["model"]["name"] == "cdlm-nano"
        assert found["warnings"][-1] == (
            "cdlm-smol, the default, is not downloaded yet: cdlm serve fetches it when it starts; "
            "this is cdlm-nano, its substitute"
        )
        found = doctor("--model", "cdlm-smol")
        assert found["model"] is None
        assert found["warnings"][-1] == "--model cdlm-smol is not downloaded yet: cdlm serve fetches it when it starts"
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert "HF_HUB_OFFLINE forbids to fetch it; this is cdlm-nano" in doctor()["warnings"][-1]
        problem = doctor("--model", "cdlm-smol", code=1)["problem"]
        assert problem == "--model cdlm-smol is not downloaded, and HF_HUB_OFFLINE forbids to fetch it"
        assert index.users == []
        monkeypatch.delenv("HF_HUB_OFFLINE")
        NAMES["cdlm-smol"].fetch()
    for flags in ((), ("--model", "cdlm-smol")):
        found = doctor(*flags)
        assert (found["model"]["name"], found["model"]["adapter"]) == ("cdlm-smol", str(adapter))
        assert not [warning for warning in found["warnings"] if "downloaded" in warning]


def test_a_torch_that_cannot_be_imported_hides_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object')")
    result = command("--json", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert "model could not be looked at: ImportError: libcudart.so.13" in found["problem"]
    assert found["packages"]["torch"] == TORCH
    assert found["shared_memory"]["total"] > 0
    assert "Traceback" not in result.stderr


def test_a_bad_flag_or_variable_ends_with_its_name() -> None:
    result = command("--prot", "1")
    assert (result.returncode, result.stdout) == (2, "")
    assert "cdlm doctor: " in result.stderr
    assert "--prot" in result.stderr
    assert "CDLM_PROT" in command(CDLM_PROT="1").stderr


def test_a_container_with_little_shared_memory_for_ranks() -> None:
    script = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    inside = ("unshare", "--mount", "sh", "-c", script, "sh")
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("a mount of one's own is not allowed here")
    found, alone = commands(("--tensor-parallel-size", "2"), (), before=inside)
    assert found["shared_memory"]["total"] == 64 * 2**20
    [warning] = found["warnings"]
    assert warning.startswith(f"/dev/shm has {found['shared_memory']['free']} bytes free, and the 2 ranks")
    assert alone["warnings"] == []


def kernel(root: Path, *, bus: bool = False, driver: bool = False, files: bool = False) -> Path:
    """What a kernel shows of one NVIDIA GPU: a host without its driver, one with it, a container without its device."""
    for name, vendor, kind in (("0000:00:02.0", "0x10de", "0x030200"), ("0000:00:03.0", "0x1af4", "0x020000")):
        device = root / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor if bus else '0x1af4'}\n")
        (device / "class").write_text(f"{kind}\n")
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").touch()
    if files:
        (root / "dev/nvidia0").touch()
    if driver:
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@x)\n"
            "GCC version:  gcc version 12.3.0\n"
        )
    return root


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({}, None),
        ({"bus": True}, "its driver is not loaded"),
        ({"driver": True}, "no /dev/nvidia0 is here"),
        ({"bus": True, "driver": True, "files": True}, "the driver 570.86.15 may be too old"),
    ],
)
@WITHOUT_GPU
def test_a_gpu_that_torch_cannot_use(there: dict[str, bool], reason: str | None, tmp_path: Path) -> None:
    seen = gpus(kernel(tmp_path, **there))
    assert (seen["on_bus"], seen["seen_by_torch"]) == (int(bool(there.get("bus"))), [])
    without_cuda = gpu_warnings(seen | {"torch_cuda": None})
    assert bool(without_cuda) == bool(there)
    assert not without_cuda or "is built without CUDA" in without_cuda[0]
    with_cuda = gpu_warnings(seen | {"torch_cuda": "13.0"})
    assert len(with_cuda) == bool(there)
    assert reason is None or reason in with_cuda[0]
    assert gpu_warnings(seen) == (without_cuda if torch.version.cuda is None else with_cuda)


def test_containers_are_known_by_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert container(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert container(tmp_path) == "podman"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert container(tmp_path) == "kubernetes"
