"""The table of fields: what it says of a field is what becomes of it, at every depth."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import JsonValue

from cdlm.server.anthropic.messages.request import CountTokensRequest, MessagesRequest
from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.decisions.request import DecisionsRequest
from cdlm.server.openai.edit.request import EditRequest
from cdlm.server.openai.fields.page import page
from cdlm.server.openai.fields.row import ANTHROPIC, INCEPTION, PEERS, ROUTES, Row
from cdlm.server.openai.fields.table import TABLE, rows_of
from cdlm.server.openai.fim.request import FimRequest
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.responses.request import ResponsesRequest
from cdlm.server.openai.tokens.request import DetokenizeRequest, TokenizeRequest
from tests.support.places import ROOT
from tests.support.server.bench import Bench, widen

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(lasting_bench: Bench) -> Iterator[Bench]:
    """The same server for all; whatever it refuses leaves it as it was."""
    before = lasting_bench.engine.ready
    yield lasting_bench
    assert lasting_bench.services.gate.in_flight == 0
    lasting_bench.engine.ready = before
    lasting_bench.engine.requests.clear()


BODIES: dict[str, type[ApiModel]] = {
    model.place: model
    for model in (
        CompletionRequest, ChatRequest, ResponsesRequest, DecisionsRequest, MessagesRequest, CountTokensRequest,
        TokenizeRequest, DetokenizeRequest, FimRequest, EditRequest,
    )
}  # fmt: skip
MODELS = [ApiModel]
for each in MODELS:
    MODELS += each.__subclasses__()
INNER = sorted({model.place for model in MODELS if hasattr(model, "place")} - set(ROUTES))
USER = {"role": "user", "content": "hi"}
EDIT = {
    "role": "user",
    "content": "<|current_file_content|><|code_to_edit|>a<|cursor|><|/code_to_edit|><|/current_file_content|>",
}
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/fim/completions": {"prompt": "hi"},
    "/v1/edit/completions": {"messages": [EDIT]},
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": "hi"},
    "/v1/decisions": {"input": "hi", "questions": [{"type": "predicate", "instructions": "hello"}]},
    "/v1/messages": {"messages": [USER], "max_tokens": 8},
    "/v1/messages/count_tokens": {"messages": [USER]},
    "/v1/tokenize": {"prompt": "hi"},
    "/v1/detokenize": {"tokens": [5]},
}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
DECISIONS = "/v1/decisions"
PICK = {"type": "choice", "instructions": "hello", "choices": [{"value": "a"}, {"value": "b"}]}
RATE = {"type": "score", "instructions": "hello", "levels": [{"label": "a"}, {"label": "b"}]}
CUSTOM_MADE = {"type": "custom_tool_call", "call_id": "1", "name": "f", "input": ""}
OFFER = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MADE = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
USE = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "1"}
CUSTOM = {"name": "f", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}


def within(place: str, extra: dict[str, JsonValue]) -> tuple[str, dict[str, Any], str]:
    """A route, a body with ``extra`` in an object at ``place``, and the path of that object."""
    call = CALL | {"function": CALL["function"] | extra} if place.endswith("].function") else CALL | extra  # type: ignore[operator]
    asking = [USER, {"role": "assistant", "tool_calls": [call]}]
    match place:
        case "messages[]":
            return CHAT, {"messages": [USER, USER | extra]}, "messages[1]"
        case "messages[] (/v1/edit/completions)":
            return "/v1/edit/completions", {"messages": [EDIT | extra]}, "messages[0]"
        case "messages[].content[]":
            content = [{"type": "text", "text": "hi"} | extra]
            return CHAT, {"messages": [USER | {"content": content}]}, "messages[0].content[0]"
        case "messages[].tool_calls[]":
            return CHAT, {"messages": asking}, "messages[1].tool_calls[0]"
        case "messages[].tool_calls[].function":
            return CHAT, {"messages": asking}, "messages[1].tool_calls[0].function"
        case "tools[]":
            tool = {"type": "function", "function": {"name": "f"}} | extra
            return CHAT, PLAIN[CHAT] | {"tools": [tool], "tool_choice": "none"}, "tools[0]"
        case "tools[].function":
            tool = {"type": "function", "function": {"name": "f"} | extra}
            return CHAT, PLAIN[CHAT] | {"tools": [tool], "tool_choice": "none"}, "tools[0].function"
        case "tool_choice" | "tool_choice.function":
            chosen: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
            chosen |= extra if place == "tool_choice" else {"function": {"name": "f"} | extra}
            return CHAT, PLAIN[CHAT] | {"tools": [OFFER], "tool_choice": chosen}, place
        case "tool_choice.allowed_tools" | "tool_choice.allowed_tools.tools[]":
            one = OFFER if place.endswith("allowed_tools") else OFFER | extra
            allowed = {"mode": "auto", "tools": [one]} | (extra if place.endswith("allowed_tools") else {})
            choice = {"type": "allowed_tools", "allowed_tools": allowed}
            return CHAT, PLAIN[CHAT] | {"tools": [OFFER], "tool_choice": choice}, place.replace("[]", "[0]")
        case "tool_choice.tools[]":
            picked = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"} | extra]}
            offered = PLAIN[RESPONSES] | {"tools": [{"type": "function", "name": "f"}], "tool_choice": picked}
            return RESPONSES, offered, "tool_choice.tools[0]"
        case "response_format":
            return CHAT, PLAIN[CHAT] | {"response_format": {"type": "text"} | extra}, place
        case "response_format.json_schema":
            inner: Any = FORMAT["json_schema"]
            return CHAT, PLAIN[CHAT] | {"response_format": FORMAT | {"json_schema": inner | extra}}, place
        case "structured_outputs":
            return CHAT, PLAIN[CHAT] | {place: {"regex": "a"} | extra}, place
        case "vote":
            return CHAT, PLAIN[CHAT] | {"n": 2, "vote": {"pattern": "(a)"} | extra}, place
        case "stream_options":
            return CHAT, PLAIN[CHAT] | {"stream": True, "stream_options": {"include_usage": True} | extra}, place
        case "input[]":
            return RESPONSES, {"input": [USER | extra]}, "input[0]"
        case "input[] (function_call)":
            return RESPONSES, {"input": [MADE | extra]}, "input[0]"
        case "input[] (function_call_output)":
            result = {"type": "function_call_output", "call_id": "1", "output": ""}
            return RESPONSES, {"input": [MADE, result | extra]}, "input[1]"
        case "input[] (reasoning)":
            return RESPONSES, {"input": [USER, {"type": "reasoning"} | extra]}, "input[1]"
        case "input[] (custom_tool_call)":
            return DECISIONS, PLAIN[DECISIONS] | {"input": [CUSTOM_MADE | extra]}, "input[0]"
        case "input[] (custom_tool_call_output)":
            said = {"type": "custom_tool_call_output", "call_id": "1", "output": ""} | extra
            return DECISIONS, PLAIN[DECISIONS] | {"input": [CUSTOM_MADE, said]}, "input[1]"
        case "content[] (input_json)" | "content[] (refusal)":
            part = {"type": "input_json", "data": {}} if "json" in place else {"type": "refusal", "refusal": "no"}
            item = {"role": "assistant", "content": [part | extra]}
            return DECISIONS, PLAIN[DECISIONS] | {"input": [item]}, "input[0].content[0]"
        case "questions[]":
            return DECISIONS, PLAIN[DECISIONS] | {"questions": [PICK, RATE | extra]}, "questions[1]"
        case "questions[].choices[]":
            pick = PICK | {"choices": [{"value": "a"}, {"value": "b"} | extra]}
            return DECISIONS, PLAIN[DECISIONS] | {"questions": [pick]}, "questions[0].choices[1]"
        case "questions[].levels[]":
            rate = RATE | {"levels": [{"label": "a"} | extra, {"label": "b"}]}
            return DECISIONS, PLAIN[DECISIONS] | {"questions": [rate]}, "questions[0].levels[0]"
        case "tools[] (/v1/responses)":
            tool = {"type": "function", "name": "f"} | extra
            return RESPONSES, PLAIN[RESPONSES] | {"tools": [tool], "tool_choice": "none"}, "tools[0]"
        case "input[].content[]":
            content = [{"type": "input_text", "text": "hi"} | extra]
            return RESPONSES, {"input": [{"role": "user", "content": content}]}, "input[0].content[0]"
        case "text":
            return RESPONSES, PLAIN[RESPONSES] | {"text": extra}, place
        case "text.format":
            return RESPONSES, PLAIN[RESPONSES] | {"text": {"format": {"type": "text"} | extra}}, place
        case "reasoning":
            return RESPONSES, PLAIN[RESPONSES] | {"reasoning": extra}, place
        case "messages[] (/v1/messages)":
            return MESSAGES, PLAIN[MESSAGES] | {"messages": [USER, USER | extra]}, "messages[1]"
        case "content[] (text)":
            return MESSAGES, PLAIN[MESSAGES] | {"system": [{"type": "text", "text": "hi"} | extra]}, "system[0]"
        case "content[] (thinking)":
            thought = {"role": "assistant", "content": [{"type": "thinking"} | extra]}
            return MESSAGES, PLAIN[MESSAGES] | {"messages": [USER, thought, USER]}, "messages[1].content[0]"
        case "content[] (tool_use)" | "content[] (tool_result)":
            number = int(place.endswith("(tool_result)"))
            use, result = (USE, RESULT | extra) if number else (USE | extra, RESULT)
            turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
            return MESSAGES, PLAIN[MESSAGES] | {"messages": turns}, f"messages[{number}].content[0]"
        case "tools[] (/v1/messages)":
            return MESSAGES, PLAIN[MESSAGES] | {"tools": [CUSTOM | extra], "tool_choice": {"type": "none"}}, "tools[0]"
        case "tool_choice (/v1/messages)":
            wish = {"type": "none"} | extra
            return MESSAGES, PLAIN[MESSAGES] | {"tools": [CUSTOM], "tool_choice": wish}, "tool_choice"
        case "metadata" | "output_config":
            return MESSAGES, PLAIN[MESSAGES] | {place: extra}, place
        case "output_config.format":
            form = {"type": "json_schema", "schema": {"type": "integer"}} | extra
            return MESSAGES, PLAIN[MESSAGES] | {"output_config": {"format": form}}, place
    return place, PLAIN[place] | extra, ""


def named(route: str, error: dict[str, Any]) -> str:
    """The field that an error names; Anthropic's errors do so in the message alone."""
    return error["message"].partition(" ")[0] if route.startswith(MESSAGES) else error["param"]


def path_of(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def test_the_table_is_whole() -> None:
    places = Counter((place, row.name) for row in TABLE for place in row.places)
    assert not {where for where, count in places.items() if count > 1}
    assert {place for place, _ in places} <= {*ROUTES, *INNER}
    for row in TABLE:
        assert list(row.peers) == sorted(row.peers, key=(*PEERS, ANTHROPIC, INCEPTION).index)


@pytest.mark.parametrize("route", BODIES)
def test_what_bodies_define_is_honored_and_nothing_else(route: str) -> None:
    honored = {name for name, row in rows_of(route).items() if row.verdict == "honored"}
    assert honored == BODIES[route].field_names


@pytest.mark.parametrize("place", [*ROUTES, *INNER])
async def test_unknown_names_are_refused_by_their_path(bench: Bench, place: str) -> None:
    widen(bench)
    route, body, prefix = within(place, {"flavor": "sour"})
    response = await bench.post(route, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert named(route, error) == path_of(prefix, "flavor")
    assert error["message"] == f"{path_of(prefix, 'flavor')} is not a field of {place}"
    assert bench.engine.requests == []
    route, body, _ = within(place, {"flavor": None})
    response = await bench.post(route, body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        ("/v1/completions", "tempature", "temperature"),
        ("/v1/completions", "maxTokens", "max_tokens"),
        ("/v1/chat/completions", "tool_choices", "tool_choice"),
        ("/v1/chat/completions", "response_formats", "response_format"),
        ("/v1/responses", "max_output_token", "max_output_tokens"),
        ("response_format.json_schema", "schemas", "schema"),
        ("stream_options", "include_usages", "include_usage"),
        ("tools[].function", "parameter", "parameters"),
        ("messages[]", "tool_call_ids", "tool_call_id"),
        ("/v1/messages", "stop_sequence", "stop_sequences"),
        ("content[] (tool_result)", "tool_use_ids", "tool_use_id"),
    ],
)
async def test_the_nearest_name_is_suggested(bench: Bench, place: str, wrong: str, right: str) -> None:
    route, body, prefix = within(place, {wrong: 5})
    error = (await bench.post(route, body)).json()["error"]
    assert named(route, error) == path_of(prefix, wrong)
    assert error["message"].endswith(f"{wrong} is not a field of {place}; did you mean {right}?")


async def test_names_of_any_kind_are_refused(bench: Bench) -> None:
    for name in ("", "{x}", "a.b", "x" * 10_000, "\u202e", "__class__", "model_config"):
        response = await bench.post("/v1/completions", {"prompt": "hi", name: 1})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == name[:64]


@pytest.mark.parametrize("row", [row for row in TABLE if row.verdict == "refused"], ids=lambda row: row.name)
async def test_refused_fields(bench: Bench, row: Row) -> None:
    widen(bench)
    for place in row.places:
        for value in (7.5, "something", ["something"], {"some": "thing"}):
            route, body, prefix = within(place, {row.name: value})
            response = await bench.post(route, body)
            assert response.status_code == 400, (place, value)
            error = response.json()["error"]
            assert named(route, error) == path_of(prefix, row.name)
            assert error["message"].startswith(f"{named(route, error)} is not supported by this server")
            assert row.note in error["message"]
        assert bench.engine.requests == []
        for nothing in (None, *row.idle):
            route, body, _ = within(place, {row.name: nothing})
            response = await bench.post(route, body)
            assert response.status_code == 200, (place, nothing, response.text)
        bench.engine.requests.clear()


@pytest.mark.parametrize("row", [row for row in TABLE if row.verdict == "harmless"], ids=lambda row: row.name)
async def test_harmless_fields(bench: Bench, row: Row) -> None:
    widen(bench)
    for place in row.places:
        for value in (None, True, 7.5, "something", ["something"], {"some": "thing"}):
            route, body, _ = within(place, {row.name: value})
            response = await bench.post(route, body)
            assert response.status_code == 200, (place, value, response.text)


async def test_false_is_not_zero(bench: Bench) -> None:
    """To Python they are equal."""
    for name, value in (("n_probs", False), ("n_probs", 0), ("n_probs", 0.0), ("best_of", False)):
        assert (await bench.post(CHAT, PLAIN[CHAT] | {name: value})).status_code == 200
    for name, value in (("best_of", 0), ("parse_tool_calls", 1), ("cache_prompt", 1.0), ("repeat_penalty", True)):
        assert (await bench.post(CHAT, PLAIN[CHAT] | {name: value})).status_code == 400, name


def test_the_page_of_the_table_is_current() -> None:
    """``python -m cdlm.server.openai.fields.page > docs/fields.md`` makes it anew."""
    assert (ROOT / "docs/fields.md").read_text() == "".join(page())
