"""Proxies of the environment are asked for other machines, never for this one."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cdlm.cli.bench.client import make_client, served_model
from cdlm.server.http.loopback import is_loopback

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Models(BaseHTTPRequestHandler):
    """Lists one model, called by the address that it was asked at."""

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "%s"}]}' % self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for name in (*NAMES, "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(url: str) -> str:
    async def asked() -> str:
        async with make_client(url, None, 1) as client:
            return await served_model(client)

    return asyncio.run(asked())


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_here_is_asked_directly(host: str, proxy: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, proxy)
    assert ask(f"http://{host}:{port}") == "/v1/models"


def test_another_machine_is_asked_through_the_proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    assert ask("http://other.invalid") == "http://other.invalid/v1/models"


def test_which_addresses_are_here() -> None:
    here = ("http://localhost", "http://a.localhost:1", "http://127.0.0.2", "https://[::1]:8000/v1")
    elsewhere = ("http://10.0.0.1", "http://localhost.example.com", "http://[2001:db8::1]", "nonsense", "http://[")
    assert [is_loopback(url) for url in here] == [True] * 4
    assert [is_loopback(url) for url in elsewhere] == [False] * 5
