"""A container as Compose says it runs, made of namespaces by hand."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.external.images.builder import Image, buildah

# Read-only root, nothing but loopback, no capability, and the server as process 1, as an engine would start it.
_START = """
set -e
mount --make-rprivate /
ip link set lo up
mkdir -p "$ROOTFS$(dirname "$SECRET")"
touch "$ROOTFS$SECRET"
mount --bind "$ROOTFS" "$ROOTFS"
mount -o remount,bind,ro "$ROOTFS"
mount --bind "$KEY" "$ROOTFS$SECRET"
mount -o remount,bind,ro "$ROOTFS$SECRET"
mount -t proc proc "$ROOTFS/proc"
mount --rbind /dev "$ROOTFS/dev"
for place in $TMPFS; do
    mount -t tmpfs -o "nosuid,nodev,${place#*:}" tmpfs "$ROOTFS${place%%:*}"
done
exec chroot "$ROOTFS" setpriv --reuid "${OWNER%%:*}" --regid "${OWNER##*:}" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all "$@"
"""


@dataclass
class Container:
    """A running container."""

    process: subprocess.Popen[bytes]
    pid: int  # Of its process 1, seen from outside.
    log: Path
    _owner: str
    _environment: list[str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as ``docker exec`` does."""
        user, _, group = self._owner.partition(":")
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-r", "-S", user, "-G", group]
        return subprocess.run(
            [*enter, "env", "-i", "-C", "/tmp", *self._environment, *command],
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
        )

    @property
    def beside(self) -> list[str]:
        """Before a command of this machine: it sees the container's network."""
        return ["nsenter", "-t", str(self.pid), "-n"]

    def curl(self, url: str, *arguments: str) -> str:
        """What curl prints, run on this machine."""
        command = [*self.beside, "curl", "--silent", "--show-error", "--fail", "--max-time", "60", *arguments, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr + self.log.read_text()
        return done.stdout

    def wait_ready(self, limit_s: float = 180) -> None:
        """Waits until the readiness probe answers 200."""
        probe = [*self.beside, "curl", "--silent", "--fail", "--output", "/dev/null", "http://127.0.0.1:8000/readyz"]
        deadline = time.monotonic() + limit_s
        while subprocess.run(probe).returncode != 0:
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, self.log.read_text()
            time.sleep(0.5)

    def stop(self, grace_s: float) -> int:
        """Sends SIGTERM to process 1, and returns its exit code."""
        subprocess.run(["kill", "-TERM", str(self.pid)], check=True)
        return self.process.wait(grace_s)


@contextmanager
def mounted(image: Image) -> Iterator[Path]:
    """The root of a new container, writable."""
    name = buildah("from", "--pull-never", image.name)
    try:
        yield Path(buildah("mount", name))
    finally:
        buildah("rm", name)


@contextmanager
def running(image: Image, root: Path, service: dict[str, Any], key: Path, log: Path) -> Iterator[Container]:
    """The image's own command as process 1 of a container below ``root``; killed at the end if it still runs."""
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    environment = [*image.config["Env"], *(f"{name}={value}" for name, value in service["environment"].items())]
    (secret,) = service["secrets"]
    places = {"ROOTFS": root, "SECRET": secret["target"], "KEY": key, "TMPFS": " ".join(service["tmpfs"])}
    settings = [f"{name}={value}" for name, value in places.items()] + [f"OWNER={image.config['User']}"]
    command = ["env", "-i", "-C", image.config["WorkingDir"], *environment, *image.config["Entrypoint"]]
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["env", *settings, *namespaces, "sh", "-c", _START, "start", *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 30
        while not (found := children.read_text().split()):
            alive = process.poll() is None and time.monotonic() < deadline
            assert alive, log.read_text()
            time.sleep(0.05)
        yield Container(process, int(found[0]), log, image.config["User"], environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)  # Its child goes with it.
            process.wait()


@contextmanager
def prometheus(beside: Container, service: dict[str, Any], key: Path, folder: Path) -> Iterator[Any]:
    """Debian's Prometheus as Compose starts its own, in the container's network; gives a function for its API."""
    (volume,) = (volume for volume in service["volumes"] if volume["type"] == "bind")
    (secret,) = service["secrets"]
    (folder / "hosts").write_text("127.0.0.1 server localhost\n")
    script = """
    set -e
    mount --make-rprivate /
    mount --bind "$1" "$2"
    mount --bind "$3" /etc/hosts
    mount -t tmpfs tmpfs /run
    mkdir -p "$(dirname "$5")"
    cp "$4" "$5"
    shift 5
    exec prometheus "$@"
    """
    arguments = [volume["source"], volume["target"], str(folder / "hosts"), str(key), secret["target"]]
    # Its volume is a folder here.
    command = [part.replace("=/prometheus", f"={folder / 'data'}") for part in service["command"]]
    with (folder / "prometheus.log").open("wb") as sink:
        process = subprocess.Popen(
            [*beside.beside, "unshare", "--mount", "sh", "-c", script, "start", *arguments, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )

    def ask(path: str) -> Any:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        return json.loads(beside.curl(f"http://127.0.0.1:9090/api/v1/{path}", "--retry", "20", "--retry-connrefused"))

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)
