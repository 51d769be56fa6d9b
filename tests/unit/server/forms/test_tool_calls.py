"""Tools over HTTP, with an engine that writes what it is told to: whole calls, streamed ones, and cut ones."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cdlm.server.text.tool_calls import CallPiece, ToolCallReader
from tests.support.server.bench import Bench, widen
from tests.unit.server.forms.test_structured import CALL, CHAT, PATH, POINT, STOP, TOOL, allowed

pytestmark = pytest.mark.anyio


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
