"""A prefix of paths that a proxy leaves in place."""

from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import ValidationError

from cdlm.server.settings import ServerSettings
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prefixed(make_bench: Callable[..., Bench]) -> AsyncIterator[Bench]:
    made = make_bench(root_path="/llm", api_key=["s3cret"])
    async with made.client:
        yield made


@pytest.mark.parametrize("prefix", ["", "/llm"])
async def test_every_path_is_served_with_the_prefix_and_without(prefixed: Bench, prefix: str) -> None:
    key = {"authorization": "Bearer s3cret"}
    body = {"prompt": "hi", "max_tokens": 4}
    assert (await prefixed.client.post(f"{prefix}/v1/completions", json=body, headers=key)).status_code == 200
    assert (await prefixed.client.get(f"{prefix}/v1/models", headers=key)).status_code == 200
    assert (await prefixed.client.post(f"{prefix}/v1/completions", json=body)).status_code == 401
    assert (await prefixed.client.get(f"{prefix}/health")).status_code == 200
    assert "html" in (await prefixed.client.get(f"{prefix}/")).headers["content-type"]


async def test_a_prefix_is_whole_words(prefixed: Bench) -> None:
    key = {"authorization": "Bearer s3cret"}
    for path in ("/llmv1/models", "/llm2/v1/models", "/llm/llm/v1/models", "/v1/llm/models"):
        assert (await prefixed.client.get(path, headers=key)).status_code == 404, path
    assert (await prefixed.client.get("/llm")).headers["location"] == "/llm/"


async def test_without_a_prefix_there_is_none(make_bench: Callable[..., Bench]) -> None:
    async with make_bench().client as client:
        assert (await client.get("/llm/v1/models")).status_code == 404


@pytest.mark.parametrize("value", ["llm", "/llm/", "/", "/a b", "//x"])
async def test_a_prefix_begins_with_a_slash_and_ends_without(value: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        ServerSettings(root_path=value)
