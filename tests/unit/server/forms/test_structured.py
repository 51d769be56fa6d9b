"""Structured output and tools over HTTP, with an engine that writes what it is told to."""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.support.server.bench import Bench

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


async def test_grammars_are_compiled_once_and_beside_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {f"p{index}": {"type": "string", "maxLength": 9} for index in range(400)}
    body = CHAT | schema({"type": "object", "properties": properties, "additionalProperties": False})
    judged: list[object] = []
    judge = type(bench.services.grammars)._judge

    async def watched(*arguments: Any) -> Any:
        judged.append(arguments)
        return await judge(*arguments)

    monkeypatch.setattr(type(bench.services.grammars), "_judge", watched)
    answering, turns = asyncio.create_task(bench.post(PATH, body)), 0
    while not answering.done():
        await asyncio.sleep(0.001)
        turns += len(judged)
    assert turns > 5
    for response in (answering.result(), await bench.post(PATH, body)):
        assert response.status_code == 200, response.text
    assert len(judged) == len(bench.services.grammars._verdicts) == 1
