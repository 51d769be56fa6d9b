"""``/v1/messages`` over the fake engine: shapes, streams, turns, stops, usage, errors."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cdlm.scheduler.errors import EngineDeadError
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


async def refusal(bench: Bench, status: int = 400, path: str = PATH, **fields: Any) -> str:
    response = await bench.post(path, {"messages": [USER], "max_tokens": 40} | fields)
    assert response.status_code == status, response.text
    body = response.json()
    assert (set(body), body["type"], set(body["error"])) == ({"type", "error"}, "error", {"type", "message"})
    text: str = body["error"]["message"]
    return text


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


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "system", "content": "s"}]}, "messages[0]: must be an object of role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content: "),
        (said(IMAGE), "messages[0].content[0].type must be 'text' or 'tool_result'; 'image' is not supported"),
        (said({"type": "document"}), "messages[0].content[0].type must be 'text' or 'tool_result'; 'document' is"),
        (said(USE), "messages[0].content[0].type must be 'text' or 'tool_result'; 'tool_use' is"),
        (
            {"messages": [*ASKED, {"role": "user", "content": [RESULT | {"content": [IMAGE]}]}]},
            "messages[2].content[0].content[0].type must be 'text'; 'image' is not supported",
        ),
        (said(RESULT), "messages[0].content[0].tool_use_id: no tool_use block before it has the id 'toolu_1'"),
        ({"messages": ASKED}, "messages[1]: the last turn ends with a tool_use block"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking is not supported by this server; "),
        ({"container": "c"}, "container is not supported by this server"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers is not supported by this server"),
        ({"stop": ["a"]}, "stop is not supported by this server; use stop_sequences"),
        ({"stop_sequence": ["a"]}, "stop_sequence is not a field of /v1/messages; did you mean stop_sequences?"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type must be 'custom'; 'web_se"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema: Field required"),
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema: arguments are an obj"),
        ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "nope"}}, "tool_choice: there is no tool named"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice: name is required with type 'tool'"),
        ({"temperature": 9}, "temperature: "),
        ({"output_config": {"effort": "low"}, "confidence_threshold": 0.9}, "output_config.effort and confidence_thre"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nope"}}}},
            "output_config.format: ",
        ),
        ({"max_tokens": 100000}, "This model's maximum context length is"),
    ],
)
async def test_refusals_name_the_field(bench: Bench, fields: dict[str, Any], start: str) -> None:
    assert (await refusal(bench, **fields)).startswith(start)
    assert bench.engine.requests == []


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_errors_have_their_types(make_bench: Callable[..., Bench], path: str) -> None:
    bench = make_bench(api_key=["s3cret"], max_body_bytes=2000)
    body = {"messages": [USER], "max_tokens": 4} if path == PATH else {"messages": [USER]}
    async with bench.client:

        async def kind(status: int, sent: dict[str, Any] = body, **headers: str) -> str:
            response = await bench.client.post(path, json=sent, headers={"x-api-key": "s3cret"} | headers)
            assert response.status_code == status, response.text
            assert response.headers["request-id"] == response.headers["x-request-id"]
            found = response.json()
            if status == 200:
                return "none"
            assert (set(found), found["type"], set(found["error"])) == ({"type", "error"}, "error", {"type", "message"})
            name: str = found["error"]["type"]
            return name

        assert await kind(200, **{"anthropic-version": "2023-06-01"}) == "none"
        assert await kind(200, **{"x-api-key": "", "authorization": "Bearer s3cret"}) == "none"
        assert await kind(401, **{"x-api-key": "wrong"}) == "authentication_error"
        assert await kind(400, body | {"flavor": 1}) == "invalid_request_error"
        assert await kind(404, body | {"model": "nope"}) == "not_found_error"
        assert await kind(413, body | {"system": "x" * 3000}) == "request_too_large"
        assert await kind(431, **{"x-much": "x" * 40000}) == "invalid_request_error"
        assert (await bench.client.get(path, headers={"x-api-key": "s3cret"})).json()["type"] == "error"
        bench.engine.ready = None
        assert await kind(529) == "overloaded_error"
        bench.services.require_ready = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
        assert await kind(500) == "api_error"


async def test_a_full_queue_is_a_rate_limit(bench: Bench) -> None:
    bench.services.gate.in_flight = 10**6
    response = await bench.post(PATH, {"messages": [USER], "max_tokens": 4})
    bench.services.gate.in_flight = 0
    assert (response.status_code, response.json()["error"]["type"]) == (429, "rate_limit_error")
    assert response.headers["retry-after"] == "1"


async def test_a_started_stream_ends_with_an_error(bench: Bench) -> None:
    bench.engine.fail_after = (1, EngineDeadError("gone"))
    found = await events(bench)
    assert found[0]["type"] == "message_start"
    assert found[-1]["type"] == "error"
    assert found[-1]["error"]["type"] == "overloaded_error"
