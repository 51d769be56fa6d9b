"""Images built without a container engine: by Debian's buildah, on a stand-in for the base image."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

CACHE = Path(os.environ.get("IMAGES_CACHE", "~/.cache/cdlm-images")).expanduser()
BASE = re.findall(r"^FROM (python:\S+) AS", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
# What the base image has of the programs that the Dockerfile calls.
_PACKAGES = "ca-certificates,netbase,python-is-python3,python3,python3-venv,tzdata"
_PIP = '#!/bin/sh\nexec python3 -m pip "$@"\n'
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_PROGRAMS = ("buildah", "debootstrap", "curl", "ip", "nsenter", "prometheus", "setpriv", "unshare")
_LIMIT_S = 3600


def missing() -> str | None:
    """Why images cannot be built here, or None."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "chroots and mounts need root on Linux"
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}; 'make images' installs them" if absent else None


@dataclass(frozen=True)
class Image:
    """An image of the store."""

    name: str
    config: dict[str, Any]
    layers: tuple[int, ...]  # What each holds, in bytes, without that of the base.


def build(target: str, context: Path, *, torch_index: str | None = None) -> Image:
    """Builds a target of the Dockerfile from a copy of the files in ``context``; torch is kept for the next time."""
    _make_base()
    options = ["--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"]
    wheels = _wheels()
    if torch_index is not None:
        options += ["--build-arg", f"TORCH_INDEX={torch_index}"]
    elif wheels is not None and target == "cpu":
        (context.parent / "pip.conf").write_text(f"[global]\nfind-links = {wheels}\n")
        # With the slash, since the default of the other target would find its layer: buildah's cache knows no mounts.
        options += ["--build-arg", "TORCH_INDEX=https://pypi.org/simple/"]
        options += ["--volume", f"{wheels}:{wheels}:ro", "--volume", f"{context.parent / 'pip.conf'}:/etc/pip.conf:ro"]
    for stage, name in ((f"torch-{target}", f"localhost/torch:{target}"), (target, f"localhost/cdlm-serve:{target}")):
        buildah("build", *options, "--target", stage, "--tag", name, str(context))
    found = json.loads(buildah("inspect", "--type", "image", name))
    sizes = {layer["diff-digest"]: layer["diff-size"] for layer in _stored_layers()}
    layers = [sizes[digest] for digest in found["OCIv1"]["rootfs"]["diff_ids"]]
    return Image(name, found["Docker"]["config"], tuple(layers[1:]))


def remove(image: Image) -> None:
    """Removes an image, and all layers that neither torch nor the base is made of."""
    buildah("rmi", "--force", image.name)
    buildah("rmi", "--prune", "--force")


def buildah(*arguments: str) -> str:
    """Runs a command on the store; returns what it printed."""
    command = [
        "buildah",
        "--storage-driver",
        "overlay",
        "--root",
        str(CACHE / "store"),
        "--runroot",
        str(CACHE / "run"),
    ]
    return _run(*command, *arguments).stdout.strip()


def copy_context(folder: Path) -> None:
    """Copies what the build reads, as a checkout with the strictest umask has it."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in ["Dockerfile", ".dockerignore", *allowed]:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)


def _make_base() -> None:
    recipe = hashlib.sha256(f"{_PACKAGES} {_PIP}".encode()).hexdigest()[:12]
    name, mark = f"docker.io/library/{BASE}", f"localhost/base:{recipe}"
    if f"{mark}\n" in buildah("images", "--format", "{{.Name}}:{{.Tag}}") + "\n":
        buildah("tag", mark, name)
        return
    tree = CACHE / "base"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    release = BASE.rpartition("-")[2]
    _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(tree))
    (packages,) = tree.glob("usr/lib/python3.*")
    (packages / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
    place = tree / "usr/local/lib" / packages.name / "dist-packages"
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target", str(place), "pip")
    shutil.rmtree(place / "bin")
    pip = tree / "usr/local/bin/pip"
    pip.write_text(_PIP)
    pip.chmod(0o755)
    # Those of a mirror of the registries too.
    shutil.copy(Path("/") / _CERTIFICATES, tree / _CERTIFICATES)
    shutil.rmtree(tree / "dev")
    (tree / "dev").mkdir()
    container = buildah("from", "scratch")
    buildah("copy", "--quiet", container, str(tree), "/")
    buildah("commit", "--quiet", "--rm", container, mark)
    buildah("tag", mark, name)
    shutil.rmtree(tree)


def _wheels() -> str | None:
    """A folder of this machine from which pip takes torch without CUDA, if there is one."""
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    return next((folder for folder in folders if list(Path(folder).glob("torch-*+cpu-*.whl"))), None)


def _stored_layers() -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads((CACHE / "store/overlay-layers/layers.json").read_text())
    return result


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done
