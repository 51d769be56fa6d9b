"""Fields that other servers have too: they do here what they do there."""

from typing import Any

import pytest

from tests.support.server.bench import Bench

pytestmark = pytest.mark.anyio

COMPLETIONS, CHATS, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
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


async def test_salt_and_priority_reach_the_engine(bench: Bench) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "hi"}), (CHATS, CHAT), (RESPONSES, {"input": "hi"})):
        asked: list[dict[str, Any]] = [
            {"cache_salt": "mine", "priority": -3},
            {},
            {"cache_salt": None, "priority": None},
        ]
        for more in asked:
            assert (await bench.post(path, body | more)).status_code == 200
    found = [(request.cache_salt, request.priority) for request in bench.engine.requests]
    assert found == [("mine", -3), ("", 0), ("", 0)] * 3
    scored = {"prompt": "hi", "echo": True, "logprobs": 1, "cache_salt": "mine", "priority": 7}
    assert (await bench.post(COMPLETIONS, scored)).status_code == 200
    assert [(request.cache_salt, request.priority) for request in bench.engine.scored] == [("mine", 7)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"cache_salt": 5}, "cache_salt"),
        ({"cache_salt": ["a"]}, "cache_salt"),
        ({"cache_salt": "x" * 1025}, "cache_salt"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": 2**31}, "priority"),
        ({"priority": -(2**31) - 1}, "priority"),
        ({"skip_special_tokens": "no"}, "skip_special_tokens"),
        ({"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
    ],
)
async def test_bad_values(bench: Bench, fields: dict[str, Any], param: str) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "hi"}), (CHATS, CHAT), (RESPONSES, {"input": "hi"})):
        response = await bench.post(path, body | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_tokens_as_ids(bench: Bench) -> None:
    fields = {"prompt": "hi", "logprobs": 3, "max_tokens": 40, "return_token_ids": True}
    plain = (await bench.post(COMPLETIONS, fields)).json()["choices"][0]
    named = (await bench.post(COMPLETIONS, fields | {"return_tokens_as_token_ids": True})).json()["choices"][0]
    assert named["text"] == plain["text"]
    logprobs = named["logprobs"]
    assert logprobs["tokens"][: len(named["token_ids"])] == [f"token_id:{ident}" for ident in named["token_ids"]]
    for chosen, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        assert all(name.startswith("token_id:") for name in top)
        assert chosen in top
    assert {**logprobs, "tokens": 0, "top_logprobs": 0} == {**plain["logprobs"], "tokens": 0, "top_logprobs": 0}

    fields = CHAT | {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    plain = (await bench.post(CHATS, fields)).json()["choices"][0]
    named = (await bench.post(CHATS, fields | {"return_tokens_as_token_ids": True})).json()["choices"][0]
    entries = named["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == [f"token_id:{ident}" for ident in named["token_ids"]]
    assert all(top["token"].startswith("token_id:") for entry in entries for top in entry["top_logprobs"])
    assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in plain["logprobs"]["content"]]


async def test_special_tokens_are_shown_where_that_is_asked_for(bench: Bench) -> None:
    hello, there = bench.codec._tokenizer.encode("hello").ids, bench.codec._tokenizer.encode(" there").ids
    bench.engine.script = lambda _: [*hello, 2, 3, *there]
    for path, body, text_of in (
        (COMPLETIONS, {"prompt": "hi", "max_tokens": 40}, lambda answer: answer["choices"][0]["text"]),
        (CHATS, CHAT, lambda answer: answer["choices"][0]["message"]["content"]),
        (RESPONSES, {"input": "hi"}, lambda answer: answer["output"][0]["content"][0]["text"]),
    ):
        for more, text in (
            ({}, "hello there"),
            ({"skip_special_tokens": True}, "hello there"),
            ({"skip_special_tokens": False}, "hello<|user|><|assistant|> there"),
            ({"skip_special_tokens": False, "stop": "<|assistant|>"}, "hello<|user|>"),
            (
                {"skip_special_tokens": False, "spaces_between_special_tokens": False},
                "hello<|user|><|assistant|> there",
            ),
        ):
            response = await bench.post(path, body | more)
            assert text_of(response.json()) == text, (path, more)
    fields = {"prompt": "hi", "max_tokens": 40, "skip_special_tokens": False, "logprobs": 1}
    pieces = [event["choices"][0]["text"] for event in await bench.events(COMPLETIONS, **fields)]
    assert "".join(pieces) == "hello<|user|><|assistant|> there"
    logprobs = (await bench.complete(**fields))["choices"][0]["logprobs"]
    place = logprobs["tokens"].index("<|user|>")
    assert logprobs["text_offset"][place : place + 3] == [5, 13, 26]


async def test_a_stop_string_may_stay(bench: Bench) -> None:
    for more, text in (
        ({"stop": ["lo w", "there"]}, "hel"),
        ({"stop": ["lo w", "there"], "include_stop_str_in_output": True}, "hello w"),
        ({"stop": ["there"], "include_stop_str_in_output": True}, "hello world, hello there"),
        ({"include_stop_str_in_output": True}, "hello world, hello there"),
    ):
        answer = await bench.complete(**more)
        assert answer["choices"][0]["text"] == text
        events = await bench.events(COMPLETIONS, prompt="hi", max_tokens=40, **more)
        assert "".join(event["choices"][0]["text"] for event in events) == text
        assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_whole_numbers_may_have_a_point(bench: Bench) -> None:
    """JSON has one kind of number, and JSON Schema calls 5.0 an integer."""
    for prompt in ([5.0, 6], [[5.0, 6.0]]):
        body = {"prompt": prompt, "max_tokens": 3.0, "seed": 7.0, "stop_token_ids": [2.0], "logprobs": 1.0}
        assert (await bench.post(COMPLETIONS, body)).status_code == 200
    for request in bench.engine.requests:
        assert (request.prompt_ids, request.max_tokens, request.stop_token_ids) == ([5, 6], 3, [2])
        assert all(type(token) is int for token in request.prompt_ids)
    for field, value in (("max_tokens", 3.5), ("seed", True), ("n", "1"), ("stop_token_ids", [2.5])):
        assert (await bench.post(COMPLETIONS, {"prompt": "hi", field: value})).status_code == 400
