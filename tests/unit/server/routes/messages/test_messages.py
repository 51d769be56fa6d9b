"""``/v1/messages`` over the fake engine: shapes, streams, turns, stops, usage."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.server.bench import ANSWER, Bench, widen

pytestmark = pytest.mark.anyio

PATH, COUNT, CHAT = "/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
TOOLS = [
    {"name": "move", "description": "Moves.", "input_schema": POINT},
    {"name": "halt", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}},
]
CALLS = (
    '<tool_call>\n{"name":"move","arguments":{"x":12}}\n</tool_call>\n'
    '<tool_call>\n{"name":"halt","arguments":{}}\n</tool_call>'
)
USE = {"type": "tool_use", "id": "toolu_1", "name": "move", "input": {"x": 5, "to": "Zoë"}}


async def message(bench: Bench, **fields: Any) -> dict[str, Any]:
    response = await bench.post(PATH, {"messages": [USER], "max_tokens": 40} | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def events(bench: Bench, **fields: Any) -> list[dict[str, Any]]:
    """The data of a stream's events; each has the name of its type."""
    response = await bench.post(PATH, {"messages": [USER], "max_tokens": 40, "stream": True} | fields)
    assert response.status_code == 200, response.text
    found = []
    for text in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def kinds(found: list[dict[str, Any]]) -> list[str]:
    """The types of events, runs of deltas as one."""
    named = [event["type"] for event in found]
    return [kind for place, kind in enumerate(named) if kind != "content_block_delta" or named[place - 1] != kind]


def assembled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a stream."""
    answer: dict[str, Any] = found[0]["message"]
    texts: dict[int, str] = {}
    for event in found:
        if event["type"] == "content_block_start":
            assert event["index"] == len(answer["content"])
            answer["content"].append(event["content_block"])
            texts[event["index"]] = ""
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            texts[event["index"]] += delta["text"] if delta["type"] == "text_delta" else delta["partial_json"]
        elif event["type"] == "message_delta":
            answer |= event["delta"] | {"usage": event["usage"]}
    for index, text in texts.items():
        block = answer["content"][index]
        if block["type"] == "text":
            block["text"] = text
        else:
            block["input"] = json.loads(text)
    return answer


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    content = [{name: value for name, value in block.items() if name != "id"} for block in answer["content"]]
    return {name: value for name, value in answer.items() if name != "id"} | {"content": content}


async def prompt(bench: Bench, path: str, body: dict[str, Any]) -> str:
    """The prompt that the engine gets."""
    response = await bench.post(path, {"max_tokens": 8} | body)
    assert response.status_code == 200, response.text
    return bench.codec.decode(bench.engine.requests[-1].prompt_ids, keep_special=True)


async def test_a_message_whole_and_streamed(bench: Bench) -> None:
    answer = await message(bench, model="tiny", metadata={"user_id": "u"})
    assert answer["id"].startswith("msg_")
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "tiny")
    assert answer["content"] == [{"type": "text", "text": ANSWER}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    chat = (await bench.post(CHAT, {"messages": [USER]})).json()["usage"]
    assert answer["usage"] == {
        "input_tokens": chat["prompt_tokens"], "output_tokens": chat["completion_tokens"],
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
    }  # fmt: skip
    found = await events(bench)
    assert kinds(found) == [
        "message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop",
    ]  # fmt: skip
    assert [event["type"] for event in found].count("content_block_delta") > 1
    assert (found[0]["message"]["content"], found[0]["message"]["stop_reason"]) == ([], None)
    assert found[0]["message"]["usage"] == answer["usage"] | {"output_tokens": 0}
    assert without_ids(assembled(found)) == without_ids(answer)


async def test_the_route_answers_without_v1(bench: Bench) -> None:
    response = await bench.post("/messages", {"messages": [USER], "max_tokens": 40})
    assert response.json()["content"][0]["text"] == ANSWER
    assert (await bench.post("/messages", {"messages": [USER]})).json()["type"] == "error"


async def test_ends(bench: Bench) -> None:
    stopped = await message(bench, stop_sequences=["nope", ", hello"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", ", hello")
    assert stopped["content"][0]["text"] == "hello world"
    assert without_ids(assembled(await events(bench, stop_sequences=["nope", ", hello"]))) == without_ids(stopped)
    cut = await message(bench, max_tokens=2)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 2)
    assert without_ids(assembled(await events(bench, max_tokens=2))) == without_ids(cut)


async def test_an_empty_answer_has_no_block(calling: Callable[[str], Bench]) -> None:
    bench = calling("")
    async with bench.client:
        assert (await message(bench))["content"] == []
        assert kinds(await events(bench)) == ["message_start", "message_delta", "message_stop"]


async def test_calls_whole_and_streamed(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    async with bench.client:
        body: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "any"}, "max_tokens": 400}
        answer = await message(bench, **body)
        first, second = answer["content"]
        assert (first["type"], first["name"], first["input"]) == ("tool_use", "move", {"x": 12})
        assert (second["name"], second["input"]) == ("halt", {})
        assert first["id"].startswith("toolu_")
        assert first["id"] != second["id"]
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
        found = await events(bench, **body)
        block = ["content_block_delta", "content_block_stop"]
        assert kinds(found) == [
            "message_start", "content_block_start", "ping", *block, "content_block_start", *block, "message_delta",
            "message_stop",
        ]  # fmt: skip
        starts = [event["content_block"]["input"] for event in found if event["type"] == "content_block_start"]
        assert starts == [{}, {}]
        assert without_ids(assembled(found)) == without_ids(answer)


async def test_the_limit_cuts_calls_anywhere(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    async with bench.client:
        whole = len(bench.engine.script(None))  # type: ignore[arg-type]
        seen = set()
        for wanted in range(1, whole):
            body: dict[str, Any] = {"tools": TOOLS, "tool_choice": {"type": "any"}, "max_tokens": wanted}
            answer = await message(bench, **body)
            assert answer["stop_reason"] == "max_tokens"
            seen.add(tuple((block["name"], *block["input"]) for block in answer["content"]))
            found = await events(bench, **body)
            assert found[-2]["delta"]["stop_reason"] == "max_tokens"
            assert [event["type"] for event in found].count("content_block_stop") == len(answer["content"])
        assert {(), (("move",),), (("move", "x"),), (("move", "x"), ("halt",))} == seen


async def test_text_beside_tools(calling: Callable[[str], Bench]) -> None:
    bench = calling("hello")
    async with bench.client:
        answer = await message(bench, tools=TOOLS, max_tokens=400)
        assert (answer["content"], answer["stop_reason"]) == ([{"type": "text", "text": "hello"}], "end_turn")


FUNCTIONS = [
    {"type": "function", "function": {"name": "move", "description": "Moves.", "parameters": POINT}},
    {"type": "function", "function": {"name": "halt", "parameters": TOOLS[1]["input_schema"]}},
]
NAMED = {"type": "function", "function": {"name": "halt"}}


@pytest.mark.parametrize(
    ("choice", "in_chat"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "halt"}, {"tool_choice": NAMED}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        (None, {}),
    ],
)
async def test_tools_reach_the_engine_as_those_of_chats(
    calling: Callable[[str], Bench], choice: dict[str, Any] | None, in_chat: dict[str, Any]
) -> None:
    bench = calling(CALLS)
    async with bench.client:
        shown = await prompt(bench, PATH, {"messages": [USER], "tools": TOOLS, "tool_choice": choice})
        grammar = bench.engine.requests[-1].grammar
        assert await prompt(bench, CHAT, {"messages": [USER], "tools": FUNCTIONS} | in_chat) == shown
        assert bench.engine.requests[-1].grammar == grammar
        counted = (await bench.post(COUNT, {"messages": [USER], "tools": TOOLS, "tool_choice": choice})).json()
        assert counted == {"input_tokens": len(bench.engine.requests[-1].prompt_ids)}


TEXT_A, TEXT_B = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}
CALL = {"id": "toolu_1", "function": {"name": "move", "arguments": '{"x":5,"to":"Zoë"}'}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
ASKED = [USER, {"role": "assistant", "content": [USE]}]
CALLED = [USER, {"role": "assistant", "tool_calls": [CALL]}]
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "x"}


@pytest.mark.parametrize(
    ("sent", "in_chat"),
    [
        ({"messages": [USER], "system": "s"}, {"messages": [{"role": "system", "content": "s"}, USER]}),
        (
            {"messages": [{"role": "user", "content": [TEXT_A, TEXT_B]}], "system": [TEXT_A, TEXT_B]},
            {"messages": [{"role": "system", "content": "a\nb"}, {"role": "user", "content": "a\nb"}]},
        ),
        ({"messages": [USER, USER]}, {"messages": [{"role": "user", "content": "hi\nhi"}]}),
        (
            {"messages": [*ASKED, {"role": "user", "content": [RESULT | {"content": "ok"}, TEXT_B]}]},
            {"messages": [*CALLED, {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"},
                          {"role": "user", "content": "b"}]},
        ),
        (
            {"messages": [*ASKED, {"role": "user", "content": [RESULT | {"content": [TEXT_A], "is_error": True}]}]},
            {"messages": [*CALLED, {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: a"}]},
        ),
        (
            {"messages": [*ASKED, {"role": "user", "content": [RESULT]}]},
            {"messages": [*CALLED, {"role": "tool", "tool_call_id": "toolu_1", "content": ""}]},
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [THOUGHT, TEXT_A, USE]},
                          {"role": "user", "content": [RESULT]}]},
            {"messages": [USER, {"role": "assistant", "content": "a", "tool_calls": [CALL]},
                          {"role": "tool", "tool_call_id": "toolu_1", "content": ""}]},
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": []}, USER]},
            {"messages": [USER, {"role": "assistant", "content": ""}, USER]},
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [THOUGHT]}, USER]},
            {"messages": [USER, {"role": "assistant", "content": ""}, USER]},
        ),
        (
            {"messages": [{"role": "assistant", "content": [THOUGHT]}]},
            {"messages": [{"role": "assistant", "content": ""}], "continue_final_message": True},
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": "The answer is"}]},
            {"messages": [USER, {"role": "assistant", "content": "The answer is"}], "continue_final_message": True},
        ),
    ],
)  # fmt: skip
async def test_turns_are_messages_of_a_chat(bench: Bench, sent: dict[str, Any], in_chat: dict[str, Any]) -> None:
    widen(bench)
    shown = await prompt(bench, PATH, sent)
    assert await prompt(bench, CHAT, in_chat) == shown
    counted = (await bench.post(COUNT, sent)).json()
    assert counted == {"input_tokens": len(bench.engine.requests[-1].prompt_ids)}


@pytest.mark.parametrize(
    ("sent", "in_chat"),
    [
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 5}, None),
        ({"confidence_threshold": 0.7, "logit_bias": {"5": 1.5}, "seed": 5}, None),
        ({"output_config": {"effort": "low"}, "seed": 5}, {"reasoning_effort": "low", "seed": 5}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": POINT}}, "seed": 5, "max_tokens": 40},
            {"response_format": {"type": "json_schema", "schema": POINT}, "seed": 5, "max_tokens": 40},
        ),
    ],
)
async def test_parameters_reach_the_engine(bench: Bench, sent: dict[str, Any], in_chat: dict[str, Any] | None) -> None:
    await prompt(bench, PATH, {"messages": [USER]} | sent)
    await prompt(bench, CHAT, {"messages": [USER]} | (sent if in_chat is None else in_chat))
    ours, chats = bench.engine.requests
    assert (ours.params, ours.grammar, ours.max_tokens) == (chats.params, chats.grammar, chats.max_tokens)
