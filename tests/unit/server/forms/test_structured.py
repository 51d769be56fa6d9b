"""Structured output and tools over HTTP, with an engine that writes what it is told to."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from cdlm.server.text.tool_calls import CallPiece, ToolCallReader
from tests.support.server.bench import Bench, widen

pytestmark = pytest.mark.anyio

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "move", "description": "Moves.", "parameters": POINT}}
STOP = {"type": "function", "function": {"name": "halt"}}
CALL = '<tool_call>\n{"name":"move","arguments":{"x":12}}\n</tool_call>'


def schema(value: Any, **fields: Any) -> dict[str, Any]:
    inner = {"name": "answer", "schema": value, **fields}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return value


NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
BAD_SCHEMAS: dict[str, Any] = {
    "unknown type": {"type": "strin"},
    "not implemented": {"type": "array", "uniqueItems": True},
    "condition": {"if": {"type": "string"}, "then": {"minLength": 2}},
    "negation": {"not": {"type": "string"}},
    "overlapping oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    "remote reference": {"$ref": "http://127.0.0.1:1/x.json"},
    "missing reference": {"$ref": "#/$defs/nothing"},
    "reference to itself": {"$ref": "#"},
    "without end": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "too deep": deep(70),
    "far too deep": deep(300),
    "too large": {"enum": [f"value {index}" * 20 for index in range(8000)]},
    "too many": {"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(6000)}},
    "impossible": {"type": "string", "minLength": 5, "maxLength": 2},
    "longer than the context": {"type": "string", "minLength": 5000},
    "look-around": {"type": "string", "pattern": "^(?=a)b"},
    "no pattern": {"type": "string", "pattern": "("},
    "minProperties": {"type": "object", "minProperties": 3},
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
async def test_bad_schemas_are_named_soon(bench: Bench, name: str) -> None:
    start = time.process_time()
    response = await bench.post(PATH, CHAT | schema(BAD_SCHEMAS[name]))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith("response_format")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": BAD_SCHEMAS[name]}}}}
    if "$ref" not in json.dumps(BAD_SCHEMAS[name]):
        tool["function"]["parameters"]["required"] = ["a"]  # type: ignore[index]
        response = await bench.post(PATH, CHAT | {"tools": [tool]})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["param"].startswith("tools")
    assert time.process_time() - start < 10
    assert bench.engine.requests == []


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    (schema(True), "response_format.json_schema.schema"),
    (schema("{}"), "response_format.json_schema.schema"),
    (schema({}, strict="yes"), "response_format.json_schema.strict"),
    (schema({}, name="no spaces"), "response_format.json_schema.name"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ({"response_format": {"type": "json_object"}, "stop_token_ids": [20]}, "stop_token_ids"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [{"type": "code"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tools": "x"}, "tools"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
    ),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "move"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "move"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"function": {"name": "move"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": 5}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": 5}}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "move", "x": 1}}},
        "tool_choice.function.x",
    ),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
    ({"tools": [TOOL], "tool_choice": allowed("never", "move")}, "tool_choice.allowed_tools.mode"),
    ({"tools": [TOOL], "tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
    ({"tools": [TOOL], "tool_choice": allowed("auto", "move", "fly")}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": allowed("auto", "move") | {"mode": "auto"}}, "tool_choice.mode"),
    ({"tool_choice": allowed("auto", "move")}, "tool_choice"),
    ({"tools": [TOOL], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"tools": [TOOL], "ignore_eos": True}, "ignore_eos"),
    ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
async def test_bad_fields_are_named(bench: Bench, fields: dict[str, Any], param: str) -> None:
    response = await bench.post(PATH, CHAT | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert bench.engine.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"tools": [], "tool_choice": "none"},
        {"tools": [], "tool_choice": "auto"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tool_choice": None, "tools": None, "parallel_tool_calls": None},
    ],
)
async def test_free_text_has_no_grammar(bench: Bench, fields: dict[str, Any]) -> None:
    response = await bench.post(PATH, CHAT | fields)
    assert response.status_code == 200, response.text
    assert bench.engine.requests[0].grammar is None
    assert bench.engine.requests[0].prompt_ids == [2, *bench.codec._tokenizer.encode("hi\n").ids, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        schema(POINT),
        schema(POINT, strict=True, description="a point"),
        schema(POINT | {"x-guidance": {"whitespace_flexible": True}}),
        {"response_format": {"type": "json_schema", "json_schema": {"name": "any"}}},
        schema({"type": "string", "pattern": "^(a+)+$"}),
        schema({"const": '"// \\ # é日本 /x/ %json'}),
    ],
)
async def test_a_response_format_becomes_a_grammar(bench: Bench, fields: dict[str, Any]) -> None:
    response = await bench.post(PATH, CHAT | fields)
    assert response.status_code == 200, response.text
    grammar = bench.engine.requests[0].grammar
    assert grammar is not None
    assert '"whitespace_flexible": false' in grammar
    assert "true" not in grammar


async def test_grammars_are_compiled_once_and_beside_the_loop(bench: Bench) -> None:
    properties = {f"p{index}": {"type": "string", "maxLength": 9} for index in range(400)}
    body = CHAT | schema({"type": "object", "properties": properties, "additionalProperties": False})

    async def timed() -> float:
        start = time.perf_counter()
        response = await bench.post(PATH, body)
        assert response.status_code == 200, response.text
        return time.perf_counter() - start

    longest, working = 0.0, asyncio.create_task(timed())
    last = time.perf_counter()
    while not working.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 0.25
    assert await timed() < max(0.1, working.result())
    assert len(bench.services.grammars._verdicts) == 1


async def test_tools_are_shown_to_a_template_that_knows_none(bench: Bench) -> None:
    widen(bench)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "move", "arguments": '{"x":1}'}}
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done <|endoftext|>"},
    ]  # fmt: skip
    response = await bench.post(PATH, {"messages": messages, "tools": [TOOL, STOP]})
    assert response.status_code == 200, response.text
    ids = bench.engine.requests[0].prompt_ids
    assert 1 not in ids  # An end token in a tool's result stays text.
    text = bench.codec.decode(ids, keep_special=True)
    for part in (
        "Be kind.\n\nYou may call functions.",
        '{"type": "function", "function": {"name": "move", "description": "Moves.", "parameters": {"type": "object"',
        '"name": "halt"',
        '<|assistant|><tool_call>\n{"name":"move","arguments":{"x":1}}\n</tool_call>\n',
        "<|user|><tool_response>\ndone <|endoftext|>\n</tool_response>\n",
    ):
        assert part in text, text


async def test_a_call_whole_and_streamed(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALL)
    async with bench.client:
        body = CHAT | {"tools": [TOOL], "tool_choice": "required"}
        choice = (await bench.post(PATH, body)).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        assert call["id"].startswith("call_")
        assert call | {"id": ""} == {
            "id": "", "type": "function", "function": {"name": "move", "arguments": '{"x":12}'}
        }  # fmt: skip
        events = await bench.events(PATH, **body)
        deltas = [event["choices"][0]["delta"] for event in events]
        assert deltas[0] == {"role": "assistant", "content": ""}
        (first,) = deltas[1]["tool_calls"]
        assert first | {"id": ""} == {
            "index": 0, "id": "", "type": "function", "function": {"name": "move", "arguments": ""}
        }  # fmt: skip
        pieces = [delta["tool_calls"][0] for delta in deltas[2:-1]]
        assert all(set(piece) == {"index", "function"} for piece in pieces)
        assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"x":12}'
        assert deltas[-1] == {}
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_allowed_tools_are_those_that_may_be_called(calling: Callable[[str], Bench], mode: str) -> None:
    bench = calling(CALL)
    async with bench.client:
        body = CHAT | {"tools": [TOOL, STOP]}
        answer = (await bench.post(PATH, body | {"tool_choice": allowed(mode, "move")})).json()
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert (await bench.post(PATH, body | {"tool_choice": "auto"})).status_code == 200
        some, all_of_them = bench.engine.requests
        assert some.prompt_ids == all_of_them.prompt_ids  # The model hears of all tools.
        assert some.grammar is not None
        assert all_of_them.grammar is not None
        assert "move" in some.grammar
        assert "halt" not in some.grammar
        assert "halt" in all_of_them.grammar
        assert ("TEXT" in some.grammar) == (mode == "auto")
        several = "(" + json.dumps("\n") + " call)*"
        assert several in some.grammar
        one = body | {"tool_choice": allowed(mode, "move"), "parallel_tool_calls": False}
        assert (await bench.post(PATH, one)).status_code == 200
        assert several not in (bench.engine.requests[-1].grammar or several)


@pytest.mark.parametrize("text", ["hello", "", "<", "<tool", "x <tool_call>\n", 'say {"a":1}\n'])
async def test_text_beside_tools_stays_text(calling: Callable[[str], Bench], text: str) -> None:
    bench = calling(text)
    async with bench.client:
        body = CHAT | {"tools": [TOOL], "return_token_ids": True, "logprobs": True}
        choice = (await bench.post(PATH, body)).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
        assert "tool_calls" not in choice["message"]
        events = await bench.events(PATH, **body)
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text
        ids = [token for event in events for token in event["choices"][0].get("token_ids", [])]
        assert ids == choice["token_ids"]
        logged = [event["choices"][0]["logprobs"] or {"content": []} for event in events]
        assert sum(len(found["content"]) for found in logged) == len(choice["logprobs"]["content"])


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "move"}}])
async def test_a_call_that_max_tokens_cuts(calling: Callable[[str], Bench], choice: Any) -> None:
    """Of a call without its name nothing is seen, wherever it was cut."""
    bench = calling(CALL)
    async with bench.client:
        whole = len(bench.engine.script(None))  # type: ignore[arg-type]
        for wanted in range(1, whole):
            body = CHAT | {"tools": [TOOL], "tool_choice": choice, "max_tokens": wanted}
            found = (await bench.post(PATH, body)).json()["choices"][0]
            assert (found["finish_reason"], found["message"]["content"]) == ("length", None)
            for call in found["message"].get("tool_calls", []):
                assert call["function"]["name"] == "move"
                assert '{"x":12}'.startswith(call["function"]["arguments"])
            events = await bench.events(PATH, **body)
            assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == ""
            streamed = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
            joined = "".join(call["function"]["arguments"] for call in streamed)
            calls = found["message"].get("tool_calls", [])
            assert joined == "".join(call["function"]["arguments"] for call in calls)


async def test_a_response_whose_call_is_cut(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALL)
    async with bench.client:
        tool = {"type": "function", "name": "move", "parameters": POINT}
        for wanted in range(1, len(bench.engine.script(None))):  # type: ignore[arg-type]
            body = {"input": "hi", "tools": [tool], "tool_choice": "required", "max_output_tokens": wanted}
            response = await bench.post("/v1/responses", body)
            assert response.status_code == 200, response.text
            output = response.json()["output"]
            assert response.json()["status"] == "incomplete"
            assert [item["type"] for item in output] in ([], ["function_call"]), output
            streamed = (await bench.post("/v1/responses", body | {"stream": True})).text
            assert "output_text.delta" not in streamed


@pytest.mark.parametrize("stop", ["_call", "<tool_c", "l>\n", "name", '":"mo'])
async def test_a_call_that_a_stop_string_cuts(calling: Callable[[str], Bench], stop: str) -> None:
    bench = calling(CALL)
    async with bench.client:
        body = CHAT | {"tools": [TOOL], "tool_choice": "required", "stop": stop}
        message = (await bench.post(PATH, body)).json()["choices"][0]["message"]
        assert not message["content"]
        assert "tool_calls" not in message
        events = await bench.events(PATH, **body)
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == ""


CUT = [("}", '{"x":12', False), ("12", '{"x":', False), ('"x', "{", False), ("\n</", '{"x":12}', True)]


@pytest.mark.parametrize(("stop", "arguments", "whole"), CUT)
async def test_arguments_that_a_stop_string_cuts(
    calling: Callable[[str], Bench], stop: str, arguments: str, whole: bool
) -> None:
    """Stop strings end calls as they end text; only a call that is whole is announced as one."""
    bench = calling(CALL)
    async with bench.client:
        body = CHAT | {"tools": [TOOL], "tool_choice": "required", "stop": stop}
        choice = (await bench.post(PATH, body)).json()["choices"][0]
        reason = "tool_calls" if whole else "stop"
        assert choice["finish_reason"] == reason
        assert choice["message"]["tool_calls"][0]["function"]["arguments"] == arguments
        events = await bench.events(PATH, **body)
        assert [found for event in events if (found := event["choices"][0]["finish_reason"])] == [reason]

        tool = {"type": "function", "name": "move", "parameters": POINT}
        body = {"input": "hi", "tools": [tool], "tool_choice": "required", "stop": stop}
        response = (await bench.post("/v1/responses", body)).json()
        status = "completed" if whole else "incomplete"
        assert (response["status"], response["output"][0]["status"]) == ("completed", status)
        assert response["output"][0]["arguments"] == arguments
        streamed = (await bench.post("/v1/responses", body | {"stream": True})).text
        last = json.loads(streamed.strip().rpartition("data: ")[2])
        assert last["response"]["output"][0]["status"] == status


ARGUMENTS = ['{"x":12}', "{}", '{"a":{"b":{}}}', '{"s":"}\\n</tool_call>"}', '{"s":"<tool_call>"}']


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_read_however_they_are_cut(size: int) -> None:
    text = "\n".join(f'<tool_call>\n{{"name":"f_{i}","arguments":{a}}}\n</tool_call>' for i, a in enumerate(ARGUMENTS))
    reader = ToolCallReader()
    pieces = [piece for start in range(0, len(text), size) for piece in reader.feed(text[start : start + size])]
    pieces += reader.finish(cut=False)
    assert [(call.name, call.arguments) for call in reader.calls] == [(f"f_{i}", a) for i, a in enumerate(ARGUMENTS)]
    joined = [""] * len(ARGUMENTS)
    for piece in pieces:
        assert isinstance(piece, CallPiece)
        joined[piece.index] += piece.arguments
    assert joined == ARGUMENTS
    assert reader.content == ""
