"""A server over the fake engine, called through the ASGI interface."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cdlm.server.app import create_app
from cdlm.server.services import Services
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec
from tests.server.fakes import TEMPLATE, FakeEngine, make_tokenizer

ANSWER = "hello world, hello there"


@dataclass
class Bench:
    """A server under test."""

    client: httpx.AsyncClient
    engine: FakeEngine
    services: Services
    codec: TextCodec

    async def post(self, path: str, body: object) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def complete(self, **fields: Any) -> dict[str, Any]:
        response = await self.post("/v1/completions", {"prompt": "hi", "max_tokens": 40} | fields)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    async def events(self, path: str, **fields: Any) -> list[Any]:
        response = await self.post(path, {"stream": True} | fields)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return parse_events(response.text)


def widen(bench: Bench) -> None:
    """A context with room for declarations of tools."""
    assert bench.engine.ready is not None
    bench.engine.ready = msgspec.structs.replace(bench.engine.ready, max_model_len=4096, num_pages=4096)


def parse_events(text: str) -> list[Any]:
    """Payloads of an event stream, which must end with the end mark."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def codec() -> TextCodec:
    return TextCodec(make_tokenizer(), TEMPLATE)


@pytest.fixture
def make_bench(codec: TextCodec, tmp_path: Path) -> Callable[..., Bench]:
    def make(**settings: Any) -> Bench:
        ids = codec._tokenizer.encode(ANSWER).ids
        engine = FakeEngine(lambda _: ids, codec._tokenizer.get_vocab_size())
        values = {"model": str(tmp_path), "served_model_name": "tiny"} | settings
        services = Services(ServerSettings(**values), engine, codec)
        transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        return Bench(client, engine, services, codec)

    return make


@pytest.fixture
async def bench(make_bench: Callable[..., Bench]) -> AsyncIterator[Bench]:
    made = make_bench()
    async with made.client:
        yield made
        assert made.services.gate.in_flight == 0


@pytest.fixture
def calling(make_bench: Callable[..., Bench]) -> Callable[[str], Bench]:
    """A server whose engine writes a given text."""

    def make(text: str) -> Bench:
        made = make_bench()
        ids = made.codec._tokenizer.encode(text).ids
        made.engine.script = lambda _: ids
        widen(made)
        return made

    return make
