"""What a key may use, by a clock that the tests turn, and over HTTP."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdlm.server.access.keys import ApiKey, new_key
from cdlm.server.access.quotas import Quota, TokenBucket
from cdlm.server.errors import ApiError
from tests.support.server.bench import Bench, widen


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(quota: Quota, sequences: int = 1, tokens: int = 1) -> tuple[int, str | None]:
    with pytest.raises(ApiError) as error, quota.hold(sequences, tokens):
        pass
    return error.value.status, error.value.headers.get("retry-after")


def test_requests_a_minute() -> None:
    clock = Clock()
    quota = Quota(ApiKey("a", b"", requests_per_minute=3), clock)
    for _ in range(3):
        with quota.hold(1, 10**9):
            pass
    assert refused(quota) == (429, "20")
    clock.now += 19.5
    assert refused(quota) == (429, "1")
    clock.now += 0.5
    with quota.hold(1, 1):
        assert refused(quota) == (429, "20")


def test_tokens_a_minute_count_what_is_asked_for_and_what_is_left_comes_back() -> None:
    clock = Clock()
    quota = Quota(ApiKey("a", b"", tokens_per_minute=600), clock)
    with quota.hold(1, 500):
        assert refused(quota, tokens=101) == (429, "1")
        assert refused(quota, tokens=200) == (429, "10")
    quota.give_back(450)
    with quota.hold(1, 550):
        pass
    assert refused(quota, tokens=601) == (400, None)
    clock.now += 3600
    with quota.hold(1, 600):
        assert refused(quota)[0] == 429  # An hour saved up no more than a minute's tokens.


def test_places() -> None:
    quota = Quota(ApiKey("a", b"", max_sequences=3))
    with quota.hold(2, 1):
        assert refused(quota, 2) == (429, "1")
        with quota.hold(1, 1):
            assert refused(quota, 1) == (429, "1")
    assert quota.in_flight == 0
    assert refused(quota, 4) == (400, None)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=60))
def test_a_bucket_never_gives_more_than_its_rate(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket, given_out, started = TokenBucket(60, clock), 0, clock.now
    for pause, amount in steps:
        clock.now += pause
        wait = bucket.wait(amount)
        if wait == 0:
            bucket.take(amount)
            given_out += amount
        else:
            clock.now += wait + 1e-6
            assert bucket.wait(amount) == 0
        assert given_out <= 60 + (clock.now - started) + 1e-6


@pytest.fixture
async def limited(make_bench: Callable[..., Bench], tmp_path: Path) -> AsyncIterator[tuple[Bench, dict[str, str]]]:
    keys, lines = {}, []
    for name, limits in {"free": {}, "slow": {"requests_per_minute": 2}, "small": {"tokens_per_minute": 60}}.items():
        keys[name], line = new_key(name, **limits)
        lines.append(line)
    (tmp_path / "keys").write_text("\n".join(lines))
    bench = make_bench(api_key_file=tmp_path / "keys")
    async with bench.client:
        yield bench, keys


async def ask(bench: Bench, key: str, **fields: Any) -> httpx.Response:
    body = {"prompt": "hi", "max_tokens": 40} | fields
    return await bench.client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_beyond_its_limit_gets_429_and_others_are_served(
    limited: tuple[Bench, dict[str, str]], stream: bool
) -> None:
    bench, keys = limited
    assert [(await ask(bench, keys["slow"])).status_code for _ in range(3)] == [200, 200, 429]
    response = await ask(bench, keys["slow"], stream=stream)
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].startswith("The key slow may use 2 requests a minute; retry in 30 s")
    assert response.headers["retry-after"] == "30"
    assert {(await ask(bench, keys["free"], stream=stream)).status_code for _ in range(5)} == {200}
    text = (await bench.client.get("/metrics", headers={"authorization": f"Bearer {keys['free']}"})).text
    assert 'cdlm_requests_rejected_total{model_name="tiny",reason="rate_limited"} 2.0' in text
    assert {request.client for request in bench.engine.requests} == {"slow", "free"}


@pytest.mark.anyio
async def test_tokens_that_an_answer_leaves_can_be_used(limited: tuple[Bench, dict[str, str]]) -> None:
    bench, keys = limited
    # Each asks for more than half of the minute's tokens and uses a few.
    assert [(await ask(bench, keys["small"])).status_code for _ in range(3)] == [200, 200, 200]
    response = await ask(bench, keys["small"], max_tokens=61)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "max_tokens")


@pytest.mark.anyio
async def test_decisions_count_as_requests_and_by_their_tokens(limited: tuple[Bench, dict[str, str]]) -> None:
    bench, keys = limited
    widen(bench)
    question = {"type": "predicate", "instructions": "hello"}

    async def decide(key: str, count: int = 1) -> httpx.Response:
        body = {"input": "hi", "questions": [question] * count}
        return await bench.client.post("/v1/decisions", json=body, headers={"authorization": f"Bearer {keys[key]}"})

    assert [(await decide("slow")).status_code for _ in range(3)] == [200, 200, 429]
    response = await decide("small", 3)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")
    assert {(await decide("free")).status_code for _ in range(3)} == {200}
    assert {request.client for request in bench.engine.scored} == {"slow", "free"}
    nobody = await bench.client.post("/v1/decisions", json={"input": "hi", "questions": [question]})
    assert nobody.status_code == 401
