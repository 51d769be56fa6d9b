"""What ``/v1/messages`` refuses, and its errors."""

from collections.abc import Callable
from typing import Any

import pytest

from cdlm.scheduler.errors import EngineDeadError
from tests.support.server.bench import Bench
from tests.unit.server.routes.messages.test_messages import ASKED, COUNT, PATH, RESULT, TOOLS, USE, USER, events

pytestmark = pytest.mark.anyio


async def refusal(bench: Bench, status: int = 400, path: str = PATH, **fields: Any) -> str:
    response = await bench.post(path, {"messages": [USER], "max_tokens": 40} | fields)
    assert response.status_code == status, response.text
    body = response.json()
    assert (set(body), body["type"], set(body["error"])) == ({"type", "error"}, "error", {"type", "message"})
    text: str = body["error"]["message"]
    return text


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
