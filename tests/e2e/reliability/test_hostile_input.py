"""Bytes that no client library would send, on real sockets: each gets the status it should, and nothing is left."""

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.model.loading.checkpoint import load_checkpoint
from tests.e2e.reliability.load import check_well, resident_mb
from tests.e2e.reliability.report import Report
from tests.support.server.served import Server, running_server

KEY = "sk-right"
MB = 2**20
MASK = load_checkpoint(BUNDLED_STUDENT).manifest.mask_token_id


def post(content: bytes, *headers: bytes, path: bytes = b"/v1/completions", key: str = KEY) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    lines += [b"Authorization: Bearer " + key.encode(), *headers]
    if not any(header.lower().startswith((b"transfer-encoding", b"content-length")) for header in headers):
        lines.append(b"Content-Length: %d" % len(content))
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "hello", "max_tokens": 4} | fields).encode()


# What is sent, and the statuses that are right.
CASES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "not JSON": (post(b"{"), (400,)),
    "nested 100,000 deep": (post(b"[" * 100_000), (400,)),
    "NaN": (post(b'{"prompt": "a", "temperature": NaN}'), (400,)),
    "1e999": (post(b'{"prompt": "a", "temperature": 1e999}'), (400,)),
    "an integer of 100,000 digits": (post(b'{"prompt": "a", "max_tokens": ' + b"9" * 100_000 + b"}"), (400,)),
    "invalid UTF-8": (post(b'{"prompt": "\xff\xfe"}'), (400,)),
    "another content type": (post(body(), b"Content-Type: text/plain"), (400,)),
    "gzip": (post(body(), b"Content-Encoding: gzip"), (415,)),
    "a body over the limit": (post(b" " * (11 * MB)), (413,)),
    "a length over the limit, no body": (post(b"", b"Content-Length: 99999999999"), (413,)),
    "a negative length": (post(b"", b"Content-Length: -1"), (400,)),
    "two lengths": (post(body(), b"Content-Length: 5", b"Content-Length: 6"), (400,)),
    "length and chunks": (post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"), (400,)),
    "chunks over the limit": (
        post((b"%x\r\n" % MB + b" " * MB + b"\r\n") * 11 + b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
        (413,),
    ),
    "a header of 64 KB": (post(body(), b"X-Big: " + b"a" * 65_536), (400, 431)),
    "10,000 headers": (post(body(), *[b"X-%d: a" % number for number in range(10_000)]), (400, 431)),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200 + b"\r\n\r\n", (400,)),
    "a line feed in a header": (post(body(), b"X-A: b\n c: d"), (200, 400)),
    "a wrong key": (post(body(), key="sk-wrong"), (401,)),
    "a key of one byte": (post(body(), key="s"), (401,)),
    "a key of 30 KB": (post(body(), key="s" * 30_000), (401,)),
    "// before the path": (post(body(), path=b"//v1/completions"), (404,)),
    "// and no key": (post(body(), path=b"//v1/completions", key=""), (401,)),
    "a percent-encoded path": (post(body(), path=b"/v1%2fcompletions"), (200, 404)),
    "a percent-encoded open path, no key": (post(body(), path=b"/v1/../health/%2e%2e/v1/models", key=""), (401,)),
    "an absolute target, no key": (post(body(), path=b"http://x/health/../v1/models", key=""), (400, 401)),
    "a path of 60 KB": (post(body(), path=b"/" + b"a" * 60_000), (400, 404, 414, 431)),
    "Host: x/?": (post(body()).replace(b"Host: x", b"Host: x/?/v1/"), (200, 400)),
    "an unknown model": (post(body(model="../../etc/passwd")), (404,)),
    "a billion answers": (post(body(n=10**9)), (400,)),
    "1,000 stop strings": (post(body(stop=["x"] * 1000)), (400,)),
    "a stop string of 1 MB": (post(body(stop="x" * MB)), (400,)),
    "an empty prompt": (post(body(prompt="")), (400,)),
    "a prompt of 9 MB": (post(body(prompt="a " * (9 * MB // 2))), (400,)),
    "a prompt without any space, 9 MB": (post(body(prompt="a" * (9 * MB))), (400,)),
    "a million ids": (post(body(prompt=[5] * 1_000_000)), (400,)),
    "the mask token's id": (post(body(prompt=[MASK])), (400,)),
    "ids of other kinds": (post(body(prompt=[5, 6.5, "a", None])), (400,)),
    "a chat template": (post(body(chat_template="{{ 1 }}")), (400,)),
    "prompt embeddings": (post(body(prompt_embeds="AAAA")), (400,)),
    "a hostile regular grammar": (
        post(body(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {
            "type": "string", "pattern": "(a+)+(b|c){1000,100000}$"}}})),
        (400,),
    ),
    "lone surrogates and control characters": (
        post(b'{"prompt": "\\ud800 \\u0000 \\u001b[31m \\u202e", "max_tokens": 4}'),
        (200,),
    ),
    "a special token as text": (post(body(prompt="<|mask|><|endoftext|>")), (200,)),
    "two request ids": (post(body(), b"X-Request-Id: a", b"X-Request-Id: b\x1b[31m"), (200, 400)),
}  # fmt: skip


def exchange(server: Server, sent: bytes) -> tuple[int, bytes]:
    """The status of the answer, 0 if the connection closed without one, and the answer."""
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=60) as connection:
        received = b""
        with contextlib.suppress(OSError):  # The server may answer before it has read everything, and close.
            connection.sendall(sent)
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65_536):
                received += chunk
    return (int(received.split()[1]) if received.startswith(b"HTTP/1.1 ") else 0), received


def test_hostile_requests_get_the_status_they_should(tmp_path: Path, report: Report) -> None:
    with running_server(tmp_path / "log", "--api-key", KEY) as server:
        assert server.client.get("/readyz").status_code == 200
        refused = server.post("/v1/completions", {"prompt": "hello"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        server.client.headers["authorization"] = f"Bearer {KEY}"
        expected = server.complete()["choices"]
        before = resident_mb(server.process.pid)
        wrong, slowest = [], 0.0
        for name, (sent, statuses) in CASES.items():
            started = time.monotonic()
            status, answer = exchange(server, sent)
            slowest = max(slowest, time.monotonic() - started)
            shaped = status < 400 or b'"error"' in answer or b"Invalid HTTP request" in answer
            if status not in statuses or not shaped:
                wrong.append((name, status, answer[-300:]))
            assert server.process.poll() is None
        grown = resident_mb(server.process.pid) - before
        check_well(server, expected)
        log = server.log.read_text()
        assert KEY not in log
        assert "Traceback" not in log
        assert "\x1b[31m" not in log
        assert not wrong
        report.row("hostile requests on sockets", tried=len(CASES), survived=len(CASES) - len(wrong),
                   slowest_s=round(slowest, 2), grown_mb=round(grown, 1))  # fmt: skip


def test_bodies_that_come_a_byte_at_a_time_hold_nobody_up(server: Server, report: Report) -> None:
    expected = server.complete()["choices"]
    address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    connections = [socket.create_connection(address) for _ in range(200)]
    for connection in connections:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    right = 0
    for _ in range(3):
        for connection in connections:
            connection.sendall(b" ")
        right += server.complete()["choices"] == expected
    for connection in connections:
        connection.close()
    check_well(server, expected)
    report.row("3 requests beside 200 bodies that never end", tried=3, survived=right)
