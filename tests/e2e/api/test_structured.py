"""Structured output and tools of a real server, with the bundled student, which was trained for neither."""

import json
import re
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from tests.support.server.served import Server

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tom has 3 apples and buys 4 more."}]}
ORDER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["apple", "pear"]},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
    },
    "required": ["name", "count", "kind", "notes"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "buy",
            "description": "Buys fruit.",
            "parameters": {
                "type": "object",
                "properties": {"kind": {"$ref": "#/$defs/kind"}, "count": {"type": "integer", "maximum": 50}},
                "required": ["kind", "count"],
                "additionalProperties": False,
                "$defs": {"kind": {"enum": ["apple", "pear"]}},
            },
        },
    },
    {"type": "function", "function": {"name": "leave"}},
]


class Purchase(pydantic.BaseModel):
    """What the official client makes a schema of, and reads answers into."""

    kind: Literal["apple", "pear"]
    count: Annotated[int, pydantic.Field(ge=0, le=99)]
    ripe: bool
    price: float | None


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("temperature", [0, 1.2])
def test_answers_follow_their_schema(server: Server, temperature: float) -> None:
    body = CHAT | {"response_format": schema_format(ORDER), "max_tokens": 120, "n": 4, "temperature": temperature}
    answer = server.post(PATH, body | {"seed": 5})
    assert answer.status_code == 200, answer.text
    for choice in answer.json()["choices"]:
        assert choice["finish_reason"] == "stop", choice
        jsonschema.validate(json.loads(choice["message"]["content"]), ORDER)


def test_json_objects_are_objects(server: Server) -> None:
    body = CHAT | {"response_format": {"type": "json_object"}, "max_tokens": 100, "n": 4, "temperature": 1, "seed": 3}
    for choice in server.post(PATH, body).json()["choices"]:
        assert choice["finish_reason"] == "stop"
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_numbers_do_not_eat_the_answer(server: Server) -> None:
    """Without a bound of their length this student writes digits until nothing else fits."""
    numbers = {name: {"type": kind} for name, kind in (("a", "number"), ("b", "integer"), ("c", "number"))}
    wanted = {"type": "object", "properties": numbers, "required": ["a", "b", "c"], "additionalProperties": False}
    body = CHAT | {"response_format": schema_format(wanted), "max_tokens": 250, "n": 4, "temperature": 1.2, "seed": 5}
    for choice in server.post(PATH, body).json()["choices"]:
        text = choice["message"]["content"]
        assert choice["finish_reason"] == "stop"
        assert set(json.loads(text)) == {"a", "b", "c"}
        assert max(map(len, re.findall(r"[-+.0-9eE]+", text))) <= 26


@pytest.mark.parametrize("granularity", ["block", "step"])
def test_a_stream_joins_to_the_whole_answer(server: Server, granularity: str) -> None:
    body = CHAT | {"response_format": schema_format(ORDER), "max_tokens": 120}
    whole = server.post(PATH, body).json()["choices"][0]["message"]["content"]
    events = server.stream(PATH, body | {"stream_granularity": granularity, "diffusing": granularity == "step"})
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == whole


def test_plain_requests_beside_constrained_ones_are_what_they_were(server: Server) -> None:
    plain = {"prompt": "Tom has 14 apples.", "max_tokens": 64, "return_token_ids": True}
    before = server.complete(**plain)["choices"][0]["token_ids"]
    server.post(PATH, CHAT | {"response_format": schema_format(ORDER), "max_tokens": 60, "n": 4})
    assert server.complete(**plain)["choices"][0]["token_ids"] == before
    server.wait_idle()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "buy"}}])
@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls_are_calls(server: Server, choice: Any, parallel: bool) -> None:
    body = CHAT | {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel, "max_tokens": 200}
    for found in server.post(PATH, body | {"n": 3, "temperature": 1, "seed": 1}).json()["choices"]:
        assert found["finish_reason"] == "tool_calls"
        assert found["message"]["content"] is None
        calls = found["message"]["tool_calls"]
        assert len(calls) == 1 or (parallel and choice == "required")
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            if choice != "required" or call["function"]["name"] == "buy":
                assert call["function"]["name"] == "buy"
                jsonschema.validate(arguments, TOOLS[0]["function"]["parameters"])
            else:
                assert (call["function"]["name"], arguments) == ("leave", {})


def test_streamed_calls_are_the_whole_ones(server: Server) -> None:
    body = CHAT | {"tools": TOOLS, "tool_choice": "required", "max_tokens": 200}
    whole = server.post(PATH, body).json()["choices"][0]
    for granularity in ("block", "step"):
        events = server.stream(PATH, body | {"stream_granularity": granularity})
        pieces = [piece for event in events for piece in event["choices"][0]["delta"].get("tool_calls", [])]
        joined: dict[int, dict[str, str]] = {}
        for piece in pieces:
            call = joined.setdefault(piece["index"], {"name": "", "arguments": ""})
            call["name"] += piece["function"].get("name", "")
            call["arguments"] += piece["function"]["arguments"]
        assert list(joined.values()) == [call["function"] for call in whole["message"]["tool_calls"]]
        assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "tool_calls"


def test_auto_answers_or_calls(server: Server) -> None:
    body = CHAT | {"tools": TOOLS, "max_tokens": 96, "n": 4, "temperature": 1.5, "seed": 2}
    for choice in server.post(PATH, body).json()["choices"]:
        message = choice["message"]
        assert (message["content"] is None) == ("tool_calls" in message)
        assert "<tool_call>" not in (message["content"] or "")
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")


def test_a_conversation_with_calls_goes_on(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "buy", "arguments": '{"kind":"pear","count":2}'}}
    messages = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "bought"},
    ]
    for fields in ({}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}):
        response = server.post(PATH, {"messages": messages, "max_tokens": 16} | fields)
        assert response.status_code == 200, response.text


def test_the_official_client(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        chat = client.chat.completions.create(
            model="cdlm-nano",
            messages=CHAT["messages"],
            response_format=schema_format(ORDER),  # type: ignore[arg-type]
            max_completion_tokens=120,
        )
        jsonschema.validate(json.loads(chat.choices[0].message.content or ""), ORDER)
        called = client.chat.completions.create(
            model="cdlm-nano",
            messages=CHAT["messages"],
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            max_completion_tokens=160,
        )
        [call] = called.choices[0].message.tool_calls or []
        assert called.choices[0].finish_reason == "tool_calls"
        assert isinstance(json.loads(call.function.arguments), dict)  # type: ignore[union-attr]
        with client.chat.completions.stream(
            model="cdlm-nano",
            messages=CHAT["messages"],
            tools=TOOLS,
            tool_choice="required",
            max_completion_tokens=160,
        ) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls
        with pytest.raises(openai.BadRequestError, match="response_format"):
            client.chat.completions.create(
                model="cdlm-nano",
                messages=CHAT["messages"],
                response_format=schema_format({"not": {}}),  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("stream", [False, True])
def test_responses_in_a_format(server: Server, stream: bool) -> None:
    text = CHAT["messages"][0]["content"]
    schema = {"type": "json_schema", "name": "order", "schema": ORDER}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:

        def respond(wanted: dict[str, Any]) -> openai.types.responses.Response:
            fields: dict[str, Any] = {"model": "cdlm-nano", "input": text, "max_output_tokens": 120}
            fields["text"] = {"format": wanted}
            if not stream:
                return client.responses.create(**fields)
            with client.responses.stream(**fields) as events:
                pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
                final = events.get_final_response()
            assert "".join(pieces) == final.output_text
            return final

        ordered, free = respond(schema), respond({"type": "json_object"})
        assert (ordered.status, free.status) == ("completed", "completed")
        jsonschema.validate(json.loads(ordered.output_text), ORDER)
        assert isinstance(json.loads(free.output_text), dict)
        assert ordered.text is not None
        assert ordered.text.format is not None
        assert ordered.text.format.to_dict() == schema | {"strict": True}
        chat = server.post(PATH, CHAT | {"response_format": schema_format(ORDER), "max_tokens": 120}).json()
        assert chat["choices"][0]["message"]["content"] == ordered.output_text


def test_the_official_client_reads_answers_into_models(server: Server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        text = CHAT["messages"][0]["content"]
        response = client.responses.parse(
            model="cdlm-nano", input=text, text_format=Purchase, max_output_tokens=120, temperature=1
        )
        assert isinstance(response.output_parsed, Purchase)
        with client.responses.stream(
            model="cdlm-nano", input=text, text_format=Purchase, max_output_tokens=120
        ) as stream:
            for _ in stream:
                pass
            assert isinstance(stream.get_final_response().output_parsed, Purchase)
        chat = client.chat.completions.parse(
            model="cdlm-nano", messages=CHAT["messages"], response_format=Purchase, max_completion_tokens=120
        )
        assert isinstance(chat.choices[0].message.parsed, Purchase)
