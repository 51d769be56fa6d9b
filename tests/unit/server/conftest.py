"""A server over the fake engine."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdlm.server.app import create_app
from cdlm.server.services import Services
from cdlm.server.settings import ServerSettings
from cdlm.server.text import TextCodec
from tests.support.server.bench import ANSWER, Bench, widen
from tests.support.server.fakes import TEMPLATE, FakeEngine, make_tokenizer


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
