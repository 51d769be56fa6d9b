"""Functions on ``/v1/responses``, with an engine that writes what it is told to."""

from collections.abc import Callable
from typing import Any

import pytest

from cdlm.scheduler.errors import EngineDeadError
from tests.support.server.bench import Bench, widen
from tests.unit.server.routes.responses.test_responses import named_events, respond

pytestmark = pytest.mark.anyio

CHAT_PATH = "/v1/chat/completions"
POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
MOVE = {"type": "function", "name": "move", "description": "Moves.", "parameters": POINT, "strict": True}
HALT = {"type": "function", "name": "halt"}
TOOLS = [MOVE, HALT]
CALL = '<tool_call>\n{"name":"move","arguments":{"x":12}}\n</tool_call>'
CALLS = CALL + '\n<tool_call>\n{"name":"halt","arguments":{}}\n</tool_call>'
OPENING = ["response.created", "response.in_progress"]
MESSAGE = ["response.output_item.added", "response.content_part.added", "response.output_text.delta",
           "response.output_text.done", "response.content_part.done", "response.output_item.done"]  # fmt: skip
CALLED = ["response.output_item.added", "response.function_call_arguments.delta",
          "response.function_call_arguments.done", "response.output_item.done"]  # fmt: skip


def in_chat(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as chats declare it."""
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def steps(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, runs of deltas as one."""
    kinds = [event["type"] for event in events]
    return [kind for place, kind in enumerate(kinds) if kind[-5:] != "delta" or kinds[place - 1] != kind]


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    """What two answers to one request have in common."""
    items = [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in answer["output"]]
    return {k: v for k, v in answer.items() if k not in ("id", "created_at", "completed_at")} | {"output": items}


async def test_calls_whole_and_streamed(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    async with bench.client:
        body = {"tools": TOOLS, "tool_choice": "required"}
        answer = await respond(bench, **body)
        first, second = answer["output"]
        assert set(first) == {"id", "type", "call_id", "name", "arguments", "status"}
        assert (first["id"][:3], first["call_id"][:5], first["type"]) == ("fc_", "call_", "function_call")
        assert (first["name"], first["arguments"], first["status"]) == ("move", '{"x":12}', "completed")
        assert (second["name"], second["arguments"], second["status"]) == ("halt", "{}", "completed")
        assert len({first["id"], second["id"], first["call_id"], second["call_id"]}) == 4
        assert (answer["status"], answer["tool_choice"]) == ("completed", "required")
        assert answer["tools"][0] == MOVE
        assert (answer["tools"][1]["name"], answer["tools"][1]["description"]) == ("halt", None)

        events = await named_events(bench, **body)
        assert steps(events) == [*OPENING, *CALLED, *CALLED, "response.completed"]
        for index in (0, 1):
            item = events[-1]["response"]["output"][index]
            mine = [event for event in events if event.get("output_index") == index]
            assert mine[0]["item"] == item | {"arguments": "", "status": "in_progress"}
            assert mine[-1]["item"] == item
            assert {event["item_id"] for event in mine[1:-1]} == {item["id"]}
            assert "".join(event["delta"] for event in mine if event["type"].endswith("delta")) == item["arguments"]
            assert (mine[-2]["arguments"], mine[-2]["name"]) == (item["arguments"], item["name"])
        assert without_ids(events[-1]["response"]) == without_ids(answer)


@pytest.mark.parametrize("text", ["hello", "", "<", "<tool", 'say {"a":1}\n'])
async def test_text_beside_tools_is_a_message(calling: Callable[[str], Bench], text: str) -> None:
    bench = calling(text)
    async with bench.client:
        body = {"tools": TOOLS, "return_token_ids": True, "include": ["message.output_text.logprobs"]}
        answer = await respond(bench, **body)
        [part] = answer["output"][0]["content"]
        assert (part["text"], answer["output"][0]["status"]) == (text, "completed")
        events = await named_events(bench, **body)
        wanted = [kind for kind in MESSAGE if text or kind != "response.output_text.delta"]
        assert steps(events) == [*OPENING, *wanted, "response.completed"]
        deltas = [event for event in events if event["type"].endswith("delta")]
        assert "".join(event["delta"] for event in deltas) == text
        assert [token for event in deltas for token in event["token_ids"]] == part["token_ids"] == answer["token_ids"]
        assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
        assert len(part["logprobs"]) == len(part["token_ids"])
        assert without_ids(events[-1]["response"]) == without_ids(answer)


async def test_tokens_without_text_are_reported(calling: Callable[[str], Bench]) -> None:
    bench = calling("")
    bench.engine.script = lambda _: [2, 2]  # No text comes of a special token.
    async with bench.client:
        body = {"tools": TOOLS, "return_token_ids": True, "include": ["message.output_text.logprobs"]}
        answer = await respond(bench, **body)
        [part] = answer["output"][0]["content"]
        assert (part["text"], part["token_ids"]) == ("", [2, 2])
        events = await named_events(bench, **body)
        [delta] = [event for event in events if event["type"] == "response.output_text.delta"]
        assert (delta["delta"], delta["token_ids"], delta["logprobs"]) == ("", [2, 2], part["logprobs"])
        assert without_ids(events[-1]["response"]) == without_ids(answer)


async def test_the_limit_cuts_anywhere(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    async with bench.client:
        whole = len(bench.engine.script(None))  # type: ignore[arg-type]
        seen = set()
        for wanted in range(1, whole):
            body = {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": wanted, "return_token_ids": True}
            answer = await respond(bench, **body)
            assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
            for item in answer["output"]:
                assert item["type"] == "function_call"
                full = {"move": '{"x":12}', "halt": "{}"}[item["name"]]
                assert full.startswith(item["arguments"])
                assert item["status"] == ("completed" if item["arguments"] == full else "incomplete")
            seen.add(tuple((item["name"], item["status"]) for item in answer["output"]))
            assert len(answer["token_ids"]) == wanted
            events = await named_events(bench, **body)
            assert steps(events)[-1] == "response.incomplete"
            assert steps(events).count("response.output_item.done") == len(answer["output"])
            assert without_ids(events[-1]["response"]) == without_ids(answer)
            reported = [token for event in events for token in event.get("token_ids", [])]
            assert reported == (answer["token_ids"] if answer["output"] else [])
        moved, halted = ("move", "completed"), ("halt", "completed")
        assert {(), (("move", "incomplete"),), (moved,), (moved, ("halt", "incomplete")), (moved, halted)} == seen


async def test_an_engine_that_dies_in_a_call(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    bench.engine.fail_after = (10, EngineDeadError("gone"))
    async with bench.client:
        events = await named_events(bench, tools=TOOLS, tool_choice="required")
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        failed = events[-1]["response"]
        [item] = failed["output"]
        deltas = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
        assert (failed["status"], item["status"], item["arguments"]) == ("failed", "incomplete", "".join(deltas))


NAMED = {"type": "function", "name": "halt"}
CHOICES: list[tuple[Any, Any]] = [
    ("auto", "auto"),
    ("required", "required"),
    (NAMED, {"type": "function", "function": {"name": "halt"}}),
    ("none", "none"),
    (None, None),
]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(("here", "there"), CHOICES)
async def test_choices_are_those_of_chats(bench: Bench, here: Any, there: Any, parallel: bool) -> None:
    widen(bench)
    answer = await respond(bench, tools=TOOLS, tool_choice=here, parallel_tool_calls=parallel)
    assert (answer["tool_choice"], answer["parallel_tool_calls"]) == (here or "auto", parallel)
    assert len(answer["tools"]) == 2
    body = {"tools": [in_chat(tool) for tool in TOOLS], "tool_choice": there, "parallel_tool_calls": parallel}
    response = await bench.post(CHAT_PATH, {"messages": [{"role": "user", "content": "hi"}]} | body)
    assert response.status_code == 200, response.text
    mine, chat = bench.engine.requests
    assert (mine.grammar, mine.prompt_ids) == (chat.grammar, chat.prompt_ids)
    assert (mine.grammar is None) == (here == "none")


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_allowed_tools_are_a_part_of_those_shown(bench: Bench, mode: str) -> None:
    widen(bench)
    choice = {"type": "allowed_tools", "mode": mode, "tools": [NAMED]}
    answer = await respond(bench, tools=TOOLS, tool_choice=choice)
    assert answer["tool_choice"] == choice
    await respond(bench, tools=TOOLS, tool_choice=mode)
    await respond(bench, tools=[HALT], tool_choice=mode)
    allowed, shown, alone = bench.engine.requests
    assert allowed.prompt_ids == shown.prompt_ids
    assert allowed.grammar is not None
    assert alone.grammar is not None
    assert allowed.grammar.replace("_1", "_0") == alone.grammar


async def test_formats_hold_for_the_text_beside_calls(bench: Bench) -> None:
    widen(bench)
    form = {"type": "json_schema", "name": "point", "schema": POINT}
    await respond(bench, tools=TOOLS, text={"format": form})
    body = {"tools": [in_chat(tool) for tool in TOOLS], "response_format": {
        "type": "json_schema", "json_schema": {"name": "point", "schema": POINT}
    }}  # fmt: skip
    await bench.post(CHAT_PATH, {"messages": [{"role": "user", "content": "hi"}]} | body)
    mine, chat = bench.engine.requests
    assert mine.grammar == chat.grammar


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "go"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x", "content": None},
    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
        {"type": "output_text", "text": "I go.", "annotations": []},
    ]},
    {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "move", "arguments": '{"x":1}',
     "status": "completed"},
    {"type": "function_call", "call_id": "b", "name": "halt", "arguments": ""},
    {"type": "function_call_output", "call_id": "b", "output": "stopped", "status": "completed"},
    {"type": "function_call_output", "call_id": "a", "output": [
        {"type": "input_text", "text": "moved"}, {"type": "input_text", "text": "far"},
    ]},
    {"type": "function_call", "call_id": "c", "name": "gone", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": ""},
    {"role": "user", "content": "and now?"},
]  # fmt: skip


async def test_calls_and_results_are_those_of_chats(bench: Bench) -> None:
    widen(bench)

    def call(ident: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}

    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "I go.", "tool_calls": [call("a", "move", '{"x":1}'), call("b", "halt", "")]},
        {"role": "tool", "tool_call_id": "b", "content": "stopped"},
        {"role": "tool", "tool_call_id": "a", "content": "moved\nfar"},
        {"role": "assistant", "tool_calls": [call("c", "gone", "{}")]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": "and now?"},
    ]
    await respond(bench, input=HISTORY, tools=TOOLS)
    await bench.post(CHAT_PATH, {"messages": messages, "tools": [in_chat(tool) for tool in TOOLS]})
    # Without tools of this turn a conversation may still have called some.
    await respond(bench, input=HISTORY)
    await bench.post(CHAT_PATH, {"messages": messages})
    mine, chat, bare, bare_chat = bench.engine.requests
    assert mine.prompt_ids == chat.prompt_ids
    assert bare.prompt_ids == bare_chat.prompt_ids
    text = bench.codec.decode(mine.prompt_ids)
    assert 'I go.\n<tool_call>\n{"name":"move","arguments":{"x":1}}\n</tool_call>\n<tool_call>' in text


async def test_output_is_the_input_of_the_next_turn(calling: Callable[[str], Bench]) -> None:
    bench = calling(CALLS)
    async with bench.client:
        events = await named_events(bench, tools=TOOLS, tool_choice="required")
        output = events[-1]["response"]["output"]
        results = [{"type": "function_call_output", "call_id": i["call_id"], "output": i["name"]} for i in output]
        await respond(bench, input=[{"role": "user", "content": "hi"}, *output, *results], tools=TOOLS)
        text = bench.codec.decode(bench.engine.requests[-1].prompt_ids)
        assert CALLS in text
        assert "<tool_response>\nhalt\n</tool_response>" in text
