"""The page at / and its files: headers, types, validators, keys, and the switch."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import cdlm.server.page.playground
from cdlm.server.command_line import parse_settings
from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

FOLDER = Path(cdlm.server.page.playground.__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*") if path.name != "index.html")


async def test_the_page_allows_itself_nothing_but_this_server(bench: Bench) -> None:
    response = await bench.client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(item.strip().split(" ", 1) for item in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", FILES)
async def test_files_have_their_types(bench: Bench, name: str) -> None:
    response = await bench.client.get(f"/static/{name}")
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    assert response.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_browser_asks_again_and_is_told_that_nothing_changed(bench: Bench) -> None:
    for path in ("/", "/static/page.js"):
        first = await bench.client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}'):
            again = await bench.client.get(path, headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert (await bench.client.get(path, headers={"if-none-match": '"other"'})).status_code == 200
        assert (await bench.client.head(path)).headers["etag"] == etag


@pytest.mark.parametrize(
    "path",
    [
        *("/static", "/static/", "/static/answer", "/static/answer/", "/static/index.html"),
        *("/static/../app.py", "/static/%2e%2e/app.py", "/index.html"),
    ],
)
async def test_other_paths_are_unknown_as_before(bench: Bench, path: str) -> None:
    response = await bench.client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


async def test_the_page_takes_no_posts(bench: Bench) -> None:
    response = await bench.client.post("/", json={})
    assert response.status_code == 405
    assert "POST" in response.json()["error"]["message"]


async def test_the_page_is_no_part_of_the_api(bench: Bench) -> None:
    paths = (await bench.client.get("/openapi.json")).json()["paths"]
    assert "/" not in paths
    assert not any(path.startswith("/static") for path in paths)


async def test_the_page_needs_no_key_and_opens_nothing_else(make_bench: Callable[..., Bench]) -> None:
    keyed = make_bench(api_key=["s3cret"])
    async with keyed.client as client:
        for path in ("/", "/static/page.js"):
            response = await client.get(path)
            assert response.status_code == 200
            assert "s3cret" not in response.text
        for path in ("/static/", "/static/nope.js", "/static/index.html", "/v1/models", "/static//page.js", "/metrics"):
            assert (await client.get(path)).status_code == 401, path


async def test_without_the_playground_there_is_no_page(make_bench: Callable[..., Bench]) -> None:
    plain = make_bench(playground=False)
    async with plain.client as client:
        for path in ("/", "/static/page.js"):
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    keyed = make_bench(playground=False, api_key=["s3cret"])
    async with keyed.client as client:
        assert (await client.get("/")).status_code == 401


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_settings([]).playground is True
    assert parse_settings(["--no-playground"]).playground is False
    monkeypatch.setenv("CDLM_PLAYGROUND", "false")
    assert parse_settings([]).playground is False
    assert parse_settings(["--playground"]).playground is True


def test_files_name_no_other_host_and_no_inline_code() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for name in [*FILES, "index.html"]:
        text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.", text), name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name
    for used in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert used.removeprefix("static/") in FILES
    for name in FILES:
        for used in re.findall(r'from "([^"]+)"', (FOLDER / name).read_text("utf-8")):
            assert (FOLDER / name).parent.joinpath(used).resolve().relative_to(FOLDER.resolve()).as_posix() in FILES
