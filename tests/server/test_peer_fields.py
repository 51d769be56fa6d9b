"""Fields that other servers have too: they do here what they do there."""

from typing import Any

import pytest

from tests.server.conftest import Bench

pytestmark = pytest.mark.anyio

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


async def test_ids_of_a_chats_prompt_are_beside_its_choices(bench: Bench) -> None:
    answer = (await bench.post(CHATS, CHAT | {"return_token_ids": True, "n": 2})).json()
    assert answer["prompt_token_ids"] == bench.engine.requests[0].prompt_ids
    assert [set(choice) >= {"token_ids"} for choice in answer["choices"]] == [True, True]
    assert not any("prompt_token_ids" in choice for choice in answer["choices"])
    assert "prompt_token_ids" not in (await bench.post(CHATS, CHAT)).json()


async def test_ids_of_a_chats_prompt_are_streamed_once(bench: Bench) -> None:
    fields = CHAT | {"return_token_ids": True, "n": 2, "stream_options": {"include_usage": True}}
    first, *others = await bench.events(CHATS, **fields)
    assert first["prompt_token_ids"] == bench.engine.requests[0].prompt_ids
    assert not any("prompt_token_ids" in event for event in others)
    assert not any("prompt_token_ids" in choice for event in (first, *others) for choice in event["choices"])
    for index in (0, 1):
        ids = [t for e in others for c in e["choices"] if c["index"] == index for t in c.get("token_ids", [])]
        assert ids == bench.codec._tokenizer.encode("hello world, hello there").ids
    assert not any("prompt_token_ids" in event for event in await bench.events(CHATS, **CHAT))


async def test_ids_of_prompts_are_on_their_completions(bench: Bench) -> None:
    prompts = {"prompt": ["hi", "hello"], "n": 2, "max_tokens": 40, "return_token_ids": True}
    answer = (await bench.post(COMPLETIONS, prompts)).json()
    asked = [request.prompt_ids for request in bench.engine.requests]
    assert asked[0] == asked[1] != asked[2] == asked[3]
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == asked
    found: dict[int, list[Any]] = {}
    for event in await bench.events(COMPLETIONS, **prompts):
        for choice in event["choices"]:
            found.setdefault(choice["index"], []).append(choice.get("prompt_token_ids"))
    assert [found[index][0] for index in range(4)] == asked
    assert all(ids is None for pieces in found.values() for ids in pieces[1:])


async def test_every_bad_key_of_logit_bias_is_named(bench: Bench) -> None:
    for bias, bad in (
        ({"x": 1, "5": 1, "-5": 1, "": 1}, ["'x'", "'-5'", "''"]),
        ({"5": 101, "6": 1, "7": "1", "8": None}, ["5", "7", "8"]),
        ({"274": 1, "5": 1, "9999": 1}, ["274", "9999"]),
        ({"y": 1, "5": 101}, ["'y'", "5"]),
    ):
        response = await bench.post(COMPLETIONS, {"prompt": "hi", "logit_bias": bias})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "logit_bias")
        assert all(key in error["message"] for key in bad), error["message"]
        assert "6" not in error["message"]
