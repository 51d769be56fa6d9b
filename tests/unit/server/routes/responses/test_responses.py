"""``/v1/responses`` over the fake engine: shapes, the order of events, refusals, late errors, leaving clients."""

import json
from typing import Any

import pytest

from tests.support.server.bench import ANSWER, Bench

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
LOGPROBS = ["message.output_text.logprobs"]
OPENING = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
ORDER = {"type": "object", "properties": {"count": {"type": "integer"}}, "additionalProperties": False}
CLOSING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


async def respond(bench: Bench, **fields: Any) -> dict[str, Any]:
    response = await bench.post(PATH, {"input": "hi"} | fields)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


async def named_events(bench: Bench, **fields: Any) -> list[dict[str, Any]]:
    """Payloads of a stream; every event's name is its type, numbered from 0, and no end mark follows."""
    response = await bench.post(PATH, {"input": "hi", "stream": True} | fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for number, part in enumerate(response.text.removesuffix("\n\n").split("\n\n")):
        name, data = part.split("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        assert payload["sequence_number"] == number
        found.append(payload)
    return found


def text_of(answer: dict[str, Any]) -> str:
    [item] = answer["output"]
    [part] = item["content"]
    assert (item["type"], item["role"]) == ("message", "assistant")
    assert (part["type"], part["annotations"]) == ("output_text", [])
    text: str = part["text"]
    return text


async def test_a_response(bench: Bench) -> None:
    answer = await respond(bench, model="tiny", metadata={"a": "b"}, user="u", store=False, tools=[], include=[])
    assert (answer["object"], answer["status"], text_of(answer)) == ("response", "completed", ANSWER)
    assert answer["id"].startswith("resp_")
    assert answer["output"][0]["id"].startswith("msg_")
    assert (answer["error"], answer["incomplete_details"]) == (None, None)
    assert (answer["metadata"], answer["store"], answer["tools"]) == ({"a": "b"}, False, [])
    assert (answer["temperature"], answer["top_p"], answer["max_output_tokens"]) == (0.0, 1.0, None)
    usage = answer["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (usage["output_tokens"], usage["denoise_steps"], usage["forward_passes"]) == (5, 4, 6)


async def test_the_end_of_the_budget_is_incomplete(bench: Bench) -> None:
    answer = await respond(bench, max_output_tokens=3)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (answer["output"][0]["status"], answer["completed_at"]) == ("incomplete", None)
    assert answer["usage"]["output_tokens"] == 3
    events = await named_events(bench, max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"
    assert text_of(events[-1]["response"]) == text_of(answer)


async def test_inputs_are_the_messages_of_a_chat(bench: Bench) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    await bench.post("/v1/chat/completions", {"messages": messages})
    items = [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"},
        ]},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [
            {"type": "output_text", "text": "three", "annotations": [], "logprobs": []},
        ]},
        {"role": "user", "content": "four"},
    ]  # fmt: skip
    await respond(bench, instructions="be brief", input=items)
    chat, response = bench.engine.requests
    assert response.prompt_ids == chat.prompt_ids
    assert response.max_tokens == chat.max_tokens


async def test_an_answer_can_be_sent_back(bench: Bench) -> None:
    answer = await respond(bench)
    await respond(bench, input=[{"role": "user", "content": "hi"}, *answer["output"], {"role": "user", "content": "a"}])
    assert len(bench.engine.requests[1].prompt_ids) > len(bench.engine.requests[0].prompt_ids)


async def test_the_order_of_events(bench: Bench) -> None:
    events = await named_events(bench)
    kinds = [event["type"] for event in events]
    assert kinds == [*OPENING, *["response.output_text.delta"] * 2, *CLOSING, "response.completed"]
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    created, progress, added, part = events[:4]
    assert created["response"] == progress["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part["part"]["text"] == ""
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == ANSWER
    done, part_done, item_done, completed = events[-4:]
    assert done["text"] == part_done["part"]["text"] == ANSWER
    assert completed["response"]["output"] == [item_done["item"]]
    assert {event["item_id"] for event in (part, *deltas, done, part_done)} == {item_done["item"]["id"]}
    whole = await respond(bench)
    own = {"id", "created_at", "completed_at", "output"}
    assert {k: v for k, v in completed["response"].items() if k not in own} == {
        k: v for k, v in whole.items() if k not in own
    }


async def test_stops_and_held_back_text(bench: Bench) -> None:
    assert text_of(await respond(bench, stop=["o t"])) == "hello world, hell"
    events = await named_events(bench, stop=["o t"])
    assert "".join(event.get("delta", "") for event in events) == "hello world, hell"
    assert events[-1]["type"] == "response.completed"


async def test_logprobs(bench: Bench) -> None:
    answer = await respond(bench, include=LOGPROBS, top_logprobs=2, return_token_ids=True)
    [part] = answer["output"][0]["content"]
    assert len(part["logprobs"]) == len(part["token_ids"]) == 5
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    assert "".join(entry["token"] for entry in part["logprobs"]) == ANSWER
    assert set(part["logprobs"][0]) == {"token", "logprob", "bytes", "top_logprobs", "denoise_step"}
    assert answer["prompt_token_ids"] == bench.engine.requests[0].prompt_ids
    events = await named_events(bench, include=LOGPROBS, top_logprobs=2, return_token_ids=True)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]
    assert [token for event in deltas for token in event["token_ids"]] == part["token_ids"]
    assert (await respond(bench))["output"][0]["content"][0]["logprobs"] == []


async def test_extensions_reach_the_engine(bench: Bench) -> None:
    await respond(
        bench, seed=7, top_k=5, min_p=0.1, temperature=0.5, top_p=0.9, confidence_threshold=0.8,
        max_steps_per_block=3, repetition_penalty=1.1, logit_bias={"5": 1}, ignore_eos=True, stop_token_ids=[9],
        min_tokens=2,
    )  # fmt: skip
    [request] = bench.engine.requests
    params = request.params
    assert (params.top_k, params.min_p, params.temperature, params.top_p) == (5, 0.1, 0.5, 0.9)
    assert (params.confidence_threshold, params.max_steps_per_block, params.min_tokens) == (0.8, 3, 2)
    assert (request.ignore_eos, request.stop_token_ids) == (True, [9])
    await bench.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "seed": 7})
    assert bench.engine.requests[-1].params.seed == params.seed


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": "hi " * 200}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content"),
    ({"input": [{"type": "web_search_call", "id": "1"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"instructions": ["x"]}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 64}, "input"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"top_logprobs": 21, "include": LOGPROBS}, "top_logprobs"),
    ({"include": ["usage"]}, "include[0]"),
    ({"include": "message.output_text.logprobs"}, "include"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "a", "schema": "{}"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}}, "text.format"),
    ({"text": {"format": {"type": "json_object"}}, "ignore_eos": True}, "ignore_eos"),
    ({"text": {"format": {"type": "json_object"}}, "stop_token_ids": [20]}, "stop_token_ids"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": "x"}, "text"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"effort": "low"}, "confidence_threshold": 0.5}, "reasoning.effort"),
    ({"reasoning": {"effort": "low"}, "decoding": "factor"}, "reasoning.effort"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"store": True}, "store"),
    ({"background": True}, "background"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"n": 2}, "n"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"chat_template": "x"}, "chat_template"),
    ({"stream": False, "diffusing": True}, "diffusing"),
    ({"stop": [""]}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"min_tokens": 64}, "min_tokens"),
    ({"stop_token_ids": [10**6]}, "stop_token_ids"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), REFUSED)
async def test_what_is_not_honored_is_named(bench: Bench, fields: dict[str, Any], param: str, stream: bool) -> None:
    response = await bench.post(PATH, {"input": "hi", "stream": stream} | fields)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert bench.engine.requests == []


async def test_nulls_and_fields_without_effect(bench: Bench) -> None:
    nulls = dict.fromkeys(
        ("instructions", "max_output_tokens", "metadata", "previous_response_id", "reasoning", "text", "tools", "store",
         "include", "conversation", "temperature", "stream_options", "truncation", "user", "background")
    )  # fmt: skip
    answer = await respond(bench, **nulls)
    assert (answer["metadata"], answer["text"]) == ({}, {"format": {"type": "text"}})
    await respond(
        bench, service_tier="auto", prompt_cache_key="k", safety_identifier="s", text={"verbosity": "low"},
        tool_choice="auto", parallel_tool_calls=False, max_tool_calls=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "in_chat"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "order", "schema": ORDER, "strict": True},
            {"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER}},
        ),
    ],
)
async def test_formats_are_those_of_chats(bench: Bench, given: dict[str, Any], in_chat: dict[str, Any]) -> None:
    answer = await respond(bench, text={"format": given})
    assert answer["text"] == {"format": given}
    events = await named_events(bench, text={"format": given})
    assert all(event["response"]["text"] == {"format": given} for event in events if "response" in event)
    response = await bench.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "response_format": in_chat}
    )
    assert response.status_code == 200, response.text
    whole, streamed, chat = bench.engine.requests
    assert whole.grammar is not None
    assert whole.grammar == streamed.grammar == chat.grammar
