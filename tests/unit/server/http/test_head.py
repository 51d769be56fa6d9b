"""HEAD answers wherever GET does; the probe of life fails when no engine will be started any more."""

import pytest

from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

# Of these the bodies, and so their lengths, differ from one time to the next.
CHANGING = ("/metrics",)


@pytest.mark.parametrize(
    "path",
    ["/health", "/readyz", "/livez", "/ping", "/version", "/metrics", "/v1/models", "/models", "/v1/models/tiny",
     "/docs", "/openapi.json", "/", "/static/page.js", "/nope", "/v1/models/nope", "/v1/completions", "/tokenize"],
)  # fmt: skip
async def test_head_has_the_status_and_headers_of_get_and_no_body(bench: Bench, path: str) -> None:
    got, head = await bench.client.get(path), await bench.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    left_out = {"x-request-id"} | ({"content-length"} if path in CHANGING else set())
    assert {k: v for k, v in head.headers.items() if k not in left_out} == {
        k: v for k, v in got.headers.items() if k not in left_out
    }
    assert head.headers["x-request-id"]


async def test_the_server_is_not_alive_once_nobody_watches_the_engine(bench: Bench) -> None:
    assert (await bench.client.get("/livez")).status_code == 200
    bench.engine.failure = "no such checkpoint directory"
    response = await bench.client.get("/livez")
    assert (response.status_code, response.json()["error"]["message"]) == (503, "no such checkpoint directory")
