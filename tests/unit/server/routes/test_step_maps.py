"""Step maps in answers: one step per token, whole and streamed, for every draw, up to a stop string."""

from typing import Any

import pytest

from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
TEXT = {"prompt": "hi", "max_tokens": 40}
ROUTES = [("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)]
ASKED = {"return_step_map": True, "return_token_ids": True}


def steps(count: int) -> list[int]:
    """What the scripted engine reports of a token at each place."""
    return [place % 3 + 1 for place in range(count)]


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("fields", [{}, {"stop": "there"}, {"stop": "o w"}, {"max_tokens": 3}, {"n": 3}])
async def test_every_token_has_its_step_whole_and_streamed(
    bench: Bench, path: str, body: dict[str, Any], fields: dict[str, Any]
) -> None:
    whole = (await bench.post(path, body | ASKED | fields)).json()["choices"]
    assert len(whole) == fields.get("n", 1)
    for choice in whole:
        assert choice["step_map"] == steps(len(choice["token_ids"]))
        assert len(choice["step_map"]) > 1
    streamed: dict[int, list[int]] = {choice["index"]: [] for choice in whole}
    for event in await bench.events(path, **body | ASKED | fields):
        for choice in event["choices"]:
            assert len(choice.get("step_map", [])) == len(choice.get("token_ids", []))
            streamed[choice["index"]] += choice.get("step_map", [])
    assert streamed == {choice["index"]: choice["step_map"] for choice in whole}


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_stream_sends_steps_without_ids(bench: Bench, path: str, body: dict[str, Any]) -> None:
    events = await bench.events(path, **body, return_step_map=True)
    found = [step for event in events for choice in event["choices"] for step in choice.get("step_map", [])]
    whole = (await bench.post(path, body | {"return_step_map": True})).json()["choices"][0]
    assert found == whole["step_map"] == steps(len(found))
    assert "token_ids" not in whole


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_who_does_not_ask_gets_none(bench: Bench, path: str, body: dict[str, Any]) -> None:
    for fields in ({}, {"return_step_map": False}, {"return_step_map": None}):
        assert "step_map" not in (await bench.post(path, body | fields)).json()["choices"][0]
        events = await bench.events(path, **body | fields)
        assert not any("step_map" in choice for event in events for choice in event["choices"])
    assert not any(request.step_map for request in bench.engine.requests)


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("value", [1, "true", [True], {}, 0.5])
async def test_another_type_is_refused_by_name(bench: Bench, path: str, body: dict[str, Any], value: object) -> None:
    response = await bench.post(path, body | {"return_step_map": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "return_step_map"
    assert bench.engine.requests == []


async def test_a_log_probability_belongs_to_the_step_beside_it(bench: Bench) -> None:
    choice = (await bench.complete(logprobs=0, **ASKED))["choices"][0]
    # The token that ended the answer has a log-probability, but is none of its tokens.
    assert choice["logprobs"]["denoise_steps"][: len(choice["step_map"])] == choice["step_map"]
    message = (await bench.post("/v1/chat/completions", CHAT | ASKED | {"logprobs": True})).json()["choices"][0]
    assert [entry["denoise_step"] for entry in message["logprobs"]["content"]] == message["step_map"]


async def test_an_answer_without_tokens_has_an_empty_map(bench: Bench) -> None:
    assert (await bench.complete(max_tokens=0, **ASKED))["choices"][0]["step_map"] == []
