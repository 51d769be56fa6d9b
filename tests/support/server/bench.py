"""A server over the fake engine, called through the ASGI interface."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from cdlm.server.services import Services
from cdlm.server.text import TextCodec
from tests.support.server.fakes import FakeEngine

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
    """A context with room for tool declarations."""
    assert bench.engine.ready is not None
    bench.engine.ready = msgspec.structs.replace(bench.engine.ready, max_model_len=4096, num_pages=4096)


def parse_events(text: str) -> list[Any]:
    """Payloads of an event stream, which must end with ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
