"""Serving a checkpoint by its id: fetched over HTTP from a hub once, code and pickles left there."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cdlm.model.assets import BUNDLED_STUDENT
from tests.support.places import ROOT
from tests.support.server.served import running_server

pytestmark = pytest.mark.spawns

COMMIT = "c0ffee" * 6 + "c0de"
FILES = {path.name: path.read_bytes() for path in BUNDLED_STUDENT.iterdir()} | {
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80\x04.",
    "original/model.safetensors": b"not wanted",
}


class Hub(BaseHTTPRequestHandler):
    """The few paths of the Hub's API that a download takes, for one repository."""

    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        head, _, rest = path.partition("/tiny/student/")
        if head == "/api/models" and rest.partition("/")[0] == "revision":
            if rest.partition("/")[2] not in ("main", "v1", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                return
            names = [{"rfilename": name} for name in FILES]
            self._send(200, json.dumps({"id": "tiny/student", "sha": COMMIT, "siblings": names}).encode(), {}, body)
        elif head == "/api/models" and rest.partition("/")[0] == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in FILES.items()
            ]
            self._send(200, json.dumps(entries).encode(), {}, body)
        elif path.startswith("/tiny/student/resolve/"):
            name = path.split("/", 5)[5]
            content = FILES[name]
            if body:
                self.fetched.append(name)
            self._send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def variables(hub: ThreadingHTTPServer, cache: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(cache / "hf"),
    }  # fmt: skip


def test_an_id_is_fetched_once_and_served_under_its_name(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    environment = variables(hub, tmp_path)
    flags = ("--model", "tiny/student", "--revision", "v1")
    with running_server(tmp_path / "log", *flags, **environment) as server:
        assert server.client.get("/v1/models/tiny/student").status_code == 200
        answer = server.post("/v1/completions", {"model": "tiny/student", "prompt": "hello", "max_tokens": 8})
        assert answer.json()["usage"]["completion_tokens"] > 0
    wanted = {path.name for path in BUNDLED_STUDENT.iterdir()}
    assert set(Hub.fetched) == wanted
    snapshot = tmp_path / "hf" / "hub" / "models--tiny--student" / "snapshots" / COMMIT
    assert {path.name for path in snapshot.iterdir()} == wanted
    assert (snapshot / "config.json").is_symlink()
    Hub.fetched.clear()
    assert resolved(environment, flags) == [str(snapshot)]
    assert not Hub.fetched
    hub.shutdown()
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert resolved(offline, flags, ("--model", str(snapshot))) == [str(snapshot)] * 2


def resolved(environment: dict[str, str], *asked: tuple[str, ...]) -> list[str]:
    """The directories that servers with these flags would serve."""
    code = (
        "import json, sys; from cdlm.server.command_line import parse_settings; "
        "print(*(parse_settings(flags).fetched().model for flags in json.loads(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--model", "tiny/student", "--revision", "v2"], "tiny/student at v2: no such directory here, and not fet"),
        (["--model", "tiny/other"], "tiny/other: no such directory here, and not fetched"),
        (["--model", str(BUNDLED_STUDENT), "--revision", "v1"], "is a directory, not an id"),
    ],
)
def test_what_cannot_be_fetched_is_named(
    hub: ThreadingHTTPServer, tmp_path: Path, flags: list[str], reason: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cdlm", "serve", "--port", "0", *flags],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin"} | variables(hub, tmp_path), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
