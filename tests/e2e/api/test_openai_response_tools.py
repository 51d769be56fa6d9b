"""Functions on ``client.responses`` of the official client, against a real server."""

import json
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from tests.support.server.served import Server

QUESTION = "Tom has 3 apples and buys 4 more. How many apples does Tom have now?"
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["apple", "pear"]}, "count": {"type": "integer", "maximum": 50}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "name": "buy", "description": "Buys fruit.", "parameters": ORDER, "strict": True},
    {"type": "function", "name": "leave", "parameters": None, "strict": None},
]
FIELDS: dict[str, Any] = {"model": "cdlm-nano", "input": QUESTION, "max_output_tokens": 200, "tools": TOOLS}


class Buy(pydantic.BaseModel):
    """What the official client makes a function of."""

    kind: Literal["apple", "pear"]
    count: Annotated[int, pydantic.Field(ge=0, le=99)]


@pytest.fixture
def client(server: Server) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made
    server.wait_idle()


@pytest.mark.parametrize("granularity", ["block", "step"])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "buy"}])
def test_a_stream_joins_to_the_whole_answer(client: openai.OpenAI, choice: Any, granularity: str) -> None:
    whole = client.responses.create(**FIELDS, tool_choice=choice)
    assert (whole.status, whole.output_text) == ("completed", "")
    assert whole.output
    for item in whole.output:
        assert item.type == "function_call"
        if item.name == "buy":
            jsonschema.validate(json.loads(item.arguments), ORDER)
        else:
            assert (choice, item.name, item.arguments) == ("required", "leave", "{}")
    body = {"stream_granularity": granularity}
    with client.responses.stream(**FIELDS, tool_choice=choice, extra_body=body) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    shown = [(item.name, item.arguments) for item in whole.output]  # type: ignore[union-attr]
    assert [(item.name, item.arguments) for item in final.output] == shown  # type: ignore[union-attr]
    snapshots = {e.output_index: e.snapshot for e in events if e.type == "response.function_call_arguments.delta"}
    assert list(snapshots.values()) == [arguments for _, arguments in shown]


def test_pydantic_tools_are_parsed(client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Buy, name="buy")]
    parsed = client.responses.parse(
        model="cdlm-nano", input=QUESTION, tools=tools, tool_choice="required", parallel_tool_calls=False
    )
    [call] = parsed.output
    assert call.type == "function_call"
    assert isinstance(call.parsed_arguments, Buy)
    assert (parsed.parallel_tool_calls, parsed.tool_choice) == (False, "required")
    with client.responses.stream(
        model="cdlm-nano", input=QUESTION, tools=tools, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        [again] = stream.get_final_response().output
    assert again.type == "function_call"
    assert again.parsed_arguments == call.parsed_arguments
    # What the client has read goes back with the items.
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "bought"}
    history: Any = [{"role": "user", "content": QUESTION}, *parsed.output, result]
    after = client.responses.parse(model="cdlm-nano", input=history, text_format=Buy)
    assert isinstance(after.output_parsed, Buy)
    history += [*after.output, {"role": "user", "content": "hello"}]
    assert client.responses.create(model="cdlm-nano", input=history, max_output_tokens=8).output[0].type == "message"


def test_a_conversation_with_a_call(client: openai.OpenAI) -> None:
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "buy"}]}
    first = client.responses.create(**FIELDS, tool_choice=choice, parallel_tool_calls=False)
    [call] = first.output
    assert call.type == "function_call"
    assert call.name == "buy"
    history: list[Any] = [
        {"role": "user", "content": QUESTION},
        *first.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": [{"type": "input_text", "text": "done"}]},
    ]
    after = client.responses.create(**FIELDS | {"input": history}, tool_choice="none")
    assert after.output[0].type == "message"
    chat: list[Any] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": "buy", "arguments": call.arguments}}
        ]},
        {"role": "tool", "tool_call_id": call.call_id, "content": "done"},
    ]  # fmt: skip
    same = client.chat.completions.create(model="cdlm-nano", messages=chat, max_completion_tokens=200)
    assert after.output_text == (same.choices[0].message.content or "")
    history[-1]["call_id"] = "call_of_nobody"
    with pytest.raises(openai.BadRequestError, match="call_of_nobody") as refused:
        client.responses.create(**FIELDS | {"input": history})
    assert refused.value.param == "input[2].call_id"


def test_the_limit_cuts_a_call(client: openai.OpenAI) -> None:
    buy: Any = {"type": "function", "name": "buy"}
    whole = client.responses.create(**FIELDS, tool_choice=buy)
    assert whole.usage is not None
    found = []
    for limit in range(16, whole.usage.output_tokens, 8):
        fields = FIELDS | {"max_output_tokens": limit, "tool_choice": buy}
        answer = client.responses.create(**fields)
        assert not answer.output_text
        last = list(client.responses.create(**fields, stream=True))[-1]
        assert last.type in ("response.completed", "response.incomplete")
        assert last.response.status == answer.status
        shown = [(item.arguments, item.status) for item in answer.output]  # type: ignore[union-attr]
        assert [(item.arguments, item.status) for item in last.response.output] == shown  # type: ignore[union-attr]
        found.append((answer.status, [status for _, status in shown]))
    assert ("incomplete", ["incomplete"]) in found
