"""Tools on ``/v1/responses``: what is refused by name, and what the official client declares."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import Response, ResponseIncludable, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.support.server.bench import Bench, widen
from tests.unit.server.routes.responses.test_response_tools import (
    CALLS,
    HALT,
    NAMED,
    POINT,
    TOOLS,
    in_chat,
    without_ids,
)
from tests.unit.server.routes.responses.test_responses import PATH, named_events, respond

pytestmark = pytest.mark.anyio


def call_then(**result: Any) -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": "a", "name": "move", "arguments": "{}"}
    return [call, {"type": "function_call_output"} | result]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": call_then(call_id="b", output="x")}, "input[1].call_id", "'b'"),
    ({"input": call_then(call_id="a", output="x")[::-1]}, "input[0].call_id", "'a'"),
    ({"input": call_then(output="x")}, "input[1].call_id", "required"),
    ({"input": call_then(call_id="a")}, "input[1].output", "required"),
    ({"input": call_then(call_id="a", output=5)}, "input[1].output", "text parts"),
    ({"input": call_then(call_id="a", output=[{"type": "input_image", "image_url": "x"}])}, "input[1].output",
     "'input_image'"),
    ({"input": [{"type": "function_call", "call_id": "a", "arguments": "{}"}]}, "input[0].name", "required"),
    ({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "1"),
    ({"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": {}}]}, "input[0].arguments", "str"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "store: false"),
    ({"input": [{"type": "custom_tool_call_output", "call_id": "a", "output": ""}]}, "input[0].type",
     "'custom_tool_call_output'"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
    ({"tools": [HALT, {"type": "mcp", "server_label": "x"}]}, "tools[1].type", "'mcp'"),
    ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type", "'custom'"),
    ({"tools": [{"name": "x"}]}, "tools[0].type", "required"),
    ({"tools": [in_chat(HALT)]}, "tools[0].function", "beside type"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "pattern"),
    ({"tools": [HALT | {"parameters": {"type": "string"}}]}, "tools[0].parameters", "object"),
    ({"tools": [HALT | {"parameters": {"properties": {"a": {"not": {}}}, "required": ["a"]}}]}, "tools[0].parameters",
     "not"),
    ({"tools": [HALT | {"strict": "yes"}]}, "tools[0].strict", "bool"),
    ({"tools": [HALT | {"async": True}]}, "tools[0].async", "not supported"),
    ({"tools": [HALT | {"defer_loading": True}]}, "tools[0].defer_loading", "not supported"),
    ({"tools": [HALT | {"output_schema": {"type": "string"}}]}, "tools[0].output_schema", "not supported"),
    ({"tools": [HALT | {"allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers", "not supported"),
    ({"tools": [HALT, HALT]}, "tools", "one name"),
    ({"tools": [HALT] * 129}, "tools", "128"),
    ({"tools": "x"}, "tools", "list"),
    ({"tool_choice": "required"}, "tool_choice", "tools"),
    ({"tool_choice": NAMED}, "tool_choice", "tools"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "'required'"),
    ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", "'allowed_tools'"),
    ({"tools": [None]}, "tools[0]", "should be an object"),
    ({"input": [None]}, "input[0]", "should be an object"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "fly"}}, "tool_choice", "'fly'"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "halt"}}}, "tool_choice.function",
     "not a field"),
    ({"tools": TOOLS, "tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", "'web_search_preview'"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.tools", "1"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
     "tool_choice.tools[0].type", "'mcp'"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "tools": [NAMED]}}, "tool_choice.mode", "required"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [NAMED | {"name": "fly"}]}},
     "tool_choice", "'fly'"),
    ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls", "bool"),
    ({"tools": TOOLS, "ignore_eos": True}, "ignore_eos", "tools"),
    ({"tools": TOOLS, "stream": True, "diffusing": True}, "diffusing", "tools"),
    ({"max_tool_calls": "3"}, "max_tool_calls", "int"),
    ({"include": ["usage"]}, "include[0]", "'web_search_call.results'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "said"), REFUSED)
async def test_what_is_refused_is_named(bench: Bench, fields: dict[str, Any], param: str, said: str) -> None:
    widen(bench)
    response = await bench.post(PATH, {"input": "hi"} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param.partition("[")[0].partition(".")[0])
    assert said in error["message"]
    assert bench.engine.requests == []


async def test_harmless_values_are_taken(bench: Bench) -> None:
    values = list(ResponseIncludable.__args__)  # type: ignore[attr-defined]
    assert len(values) >= 8
    answer = await respond(bench, include=values, max_tool_calls=3, tools=[], tool_choice="auto")
    assert answer["max_tool_calls"] == 3
    assert answer["output"][0]["content"][0]["logprobs"]
    for value in values:
        await respond(bench, include=[value])


STREAMS: list[tuple[str, dict[str, Any]]] = [
    (CALLS, {"tools": TOOLS, "tool_choice": "required", "max_tool_calls": 2}),
    (CALLS, {"tools": TOOLS, "tool_choice": NAMED, "max_output_tokens": 30, "return_token_ids": True}),
    ("hello", {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]}}),
    ("hello", {"instructions": "be", "include": ["message.output_text.logprobs"], "top_logprobs": 2, "user": "u"}),
    ("hello", {"text": {"format": {"type": "json_object"}, "verbosity": "low"}, "reasoning": {"effort": "low"}}),
    ("hello", {"text": {"format": {"type": "json_schema", "name": "p", "schema": POINT}}, "metadata": {"a": "b"}}),
    ("hello", {"prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "flex", "max_output_tokens": 2}),
]
# Of OpenAI's own: images, moderation, access programs, hosted tools, and what caching costs there.
ELSEWHERE = {
    "access_programs", "image", "input_transformations", "moderation", "prompt_cache_diagnostics",
    "prompt_cache_options", "prompt_cache_retention", "tool_usage",
}  # fmt: skip


@pytest.mark.parametrize(("text", "fields"), STREAMS)
async def test_all_is_as_the_official_client_declares_it(
    calling: Callable[[str], Bench], text: str, fields: dict[str, Any]
) -> None:
    bench = calling(text)
    official: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    async with bench.client:
        answer = await respond(bench, **fields)
        Response.model_validate_json(json.dumps(answer), strict=True)
        assert set(Response.model_fields) - set(answer) == ELSEWHERE
        events = await named_events(bench, **fields)
        for event in events:
            read = official.validate_json(json.dumps(event), strict=True)
            assert read.type == event["type"]
            # Nothing that the client reads may be left to its defaults.
            assert {field.alias or name for name, field in type(read).model_fields.items()} <= set(event)
        assert without_ids(events[-1]["response"]) == without_ids(answer)
