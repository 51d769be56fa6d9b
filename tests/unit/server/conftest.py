"""A server over the fake engine."""

from collections.abc import AsyncIterator, Callable
from functools import partial
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


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def codec() -> TextCodec:
    return TextCodec(make_tokenizer(), TEMPLATE)


def build(codec: TextCodec, directory: Path, **settings: Any) -> Bench:
    ids = codec._tokenizer.encode(ANSWER).ids
    engine = FakeEngine(lambda _: ids, codec._tokenizer.get_vocab_size())
    values = {"model": str(directory), "served_model_name": "tiny"} | settings
    services = Services(ServerSettings(**values), engine, codec)
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    return Bench(client, engine, services, codec)


@pytest.fixture
def make_bench(codec: TextCodec, tmp_path: Path) -> Callable[..., Bench]:
    return partial(build, codec, tmp_path)


@pytest.fixture(scope="module")
async def lasting_bench(codec: TextCodec, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One server for the tests of a module whose requests leave it as it was."""
    made = build(codec, tmp_path_factory.mktemp("lasting"))
    async with made.client:
        yield made


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
