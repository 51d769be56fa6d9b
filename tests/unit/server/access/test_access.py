"""Keys, body limit, request ids."""

from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio


@pytest.fixture
async def keyed(make_bench: Callable[..., Bench]) -> AsyncIterator[Bench]:
    made = make_bench(api_key=["s3cret", "other"], max_body_bytes=2000)
    async with made.client:
        yield made


@pytest.mark.parametrize("key", ["Bearer s3cret", "bearer other"])
async def test_known_keys_pass(keyed: Bench, key: str) -> None:
    response = await keyed.client.get("/v1/models", headers={"authorization": key})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "s3cret"},
        {"x-api-key": "other", "authorization": "Bearer wrong"},
        {"x-api-key": "wrong", "authorization": "Bearer s3cret"},
    ],
)
async def test_known_keys_pass_under_the_name_of_anthropic(keyed: Bench, headers: dict[str, str]) -> None:
    response = await keyed.client.get("/v1/models", headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "s3cret")],
        [("authorization", "Basic s3cret")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer s3cret"), ("authorization", "Bearer wrong")],
        [("x-api-key", "wrong")],
        [("x-api-key", "Bearer s3cret")],
        [("x-api-key", "s3cret"), ("x-api-key", "other")],
        [("authorization", "Bearer wrong"), ("x-api-key", "wrong")],
    ],
)
async def test_anything_else_is_refused(keyed: Bench, headers: list[tuple[str, str]]) -> None:
    for path in ("/v1/models", "/metrics", "/version", "/nope", "//v1/models", "/health/", "/docs/", "/v1/docs"):
        response = await keyed.client.get(path, headers=headers)
        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/ping"])
async def test_probes_need_no_key(keyed: Bench, path: str) -> None:
    assert (await keyed.client.get(path)).status_code == 200


async def test_what_the_api_is_like_needs_no_key(keyed: Bench) -> None:
    """A browser sends none; nothing in it belongs to one server."""
    page, document = await keyed.client.get("/docs"), await keyed.client.get("/openapi.json")
    assert (page.status_code, document.status_code) == (200, 200)
    assert "Authorization: Bearer" in page.text
    paths = document.json()["paths"]
    assert paths["/v1/completions"]["post"]["security"] == [{}, {"key": []}, {"header": []}]
    for text in (page.text, document.text):
        assert "s3cret" not in text
        assert "tiny" not in text  # The name of the model.


async def test_large_bodies_are_refused(keyed: Bench) -> None:
    headers = {"authorization": "Bearer s3cret", "content-type": "application/json"}
    response = await keyed.client.post("/v1/completions", content=b" " * 3000, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (413, "invalid_request_error")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 100

    response = await keyed.client.post("/v1/completions", content=chunks(), headers=headers)
    assert response.status_code == 413


@pytest.mark.parametrize("headers", [{"x-big": "a" * 70_000}, {f"x-{i}": "a" for i in range(10_000)}])
async def test_large_headers_are_refused(bench: Bench, headers: dict[str, str]) -> None:
    response = await bench.client.get("/health", headers=headers)
    assert response.status_code == 431
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2", True), ("a b", False), ("x" * 129, False), ("<script>", False)]
)
async def test_request_ids_are_sanitized(bench: Bench, given: str, kept: bool) -> None:
    for path in ("/health", "/nope"):
        response = await bench.client.get(path, headers={"x-request-id": given})
        assert (response.headers["x-request-id"] == given) is kept
