"""anthropic against a server with the key s3cret: python anthropic_client.py URL"""

import asyncio
import sys
from typing import Any

import anthropic

MODEL = "cdlm-nano"
QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
ORDER = {
    "type": "object",
    "properties": {"kind": {"enum": ["apple", "pear"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"name": "buy", "description": "Buys fruit.", "input_schema": ORDER}]
WHERE: dict[str, Any] = {"base_url": sys.argv[1], "max_retries": 0}
ASKED: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 96}

client = anthropic.Anthropic(api_key="s3cret", **WHERE)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content)


def whole() -> None:
    message = client.messages.create(**ASKED, system="Answer in one line.", metadata={"user_id": "u"})
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert text_of(message)
    assert message._request_id
    again = client.messages.create(**ASKED, system=[{"type": "text", "text": "Answer in one line."}])
    assert text_of(again) == text_of(message)
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES, system="Answer in one line.").input_tokens
    for usage in (message.usage, again.usage):
        assert usage.input_tokens + usage.cache_read_input_tokens == counted
    assert again.usage.cache_read_input_tokens > 0
    assert again.usage.output_tokens == message.usage.output_tokens > 0


def streams() -> None:
    message = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == text_of(final) == text_of(message)
    assert (final.stop_reason, final.usage.output_tokens) == (message.stop_reason, message.usage.output_tokens)
    kinds = [event.type for event in client.messages.create(**ASKED, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def ends() -> None:
    text = text_of(client.messages.create(**ASKED))
    word = text.split()[2]
    stopped = client.messages.create(**ASKED, stop_sequences=[word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert text_of(stopped) == text.partition(word)[0]
    cut = client.messages.create(**ASKED | {"max_tokens": 3})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def tools() -> None:
    asked = ASKED | {
        "tools": TOOLS,
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "max_tokens": 160,
    }
    message = client.messages.create(**asked)
    [call] = message.content
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "buy")
    assert isinstance(call.input["count"], int)
    with client.messages.stream(**asked) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) >= 1
    assert (final.content[0].input, final.stop_reason) == (call.input, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sold out", "is_error": True}
    more = [*MESSAGES, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    following = client.messages.create(**asked | {"messages": more, "tool_choice": {"type": "none"}, "max_tokens": 8})
    assert (following.role, following.stop_reason in ("end_turn", "max_tokens")) == ("assistant", True)
    assert client.messages.count_tokens(model=MODEL, messages=more, tools=TOOLS).input_tokens > 100


def forms() -> None:
    config = {"format": {"type": "json_schema", "schema": ORDER}, "effort": "low"}
    message = client.messages.create(**ASKED, output_config=config)
    assert text_of(message).startswith('{"kind":')


def prefill() -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Tom has 14 + "}]
    message = client.messages.create(**ASKED | {"messages": turns}, extra_body={"confidence_threshold": 0.98})
    assert text_of(message)


def refused(kind: type[Any], own: Any, **fields: Any) -> Any:
    """The error of a request, which must be of this kind."""
    try:
        own.messages.create(**ASKED | fields)
    except kind as error:
        return error
    raise AssertionError(f"not refused: {fields}")


def errors() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert "temperature" in refused(anthropic.BadRequestError, client, extra_body={"temperature": 9.0}).message
    assert "thinking is not supported" in refused(anthropic.BadRequestError, client, thinking=thinking).message
    assert refused(anthropic.NotFoundError, client, model="nope").body["error"]["type"] == "not_found_error"
    stranger = anthropic.Anthropic(api_key="wrong", **WHERE)
    assert refused(anthropic.AuthenticationError, stranger).body["error"]["type"] == "authentication_error"
    anthropic.Anthropic(auth_token="s3cret", api_key=None, **WHERE).messages.create(**ASKED)


async def asynchronous() -> None:
    async with anthropic.AsyncAnthropic(api_key="s3cret", **WHERE) as own:
        first, second = await asyncio.gather(own.messages.create(**ASKED), own.messages.create(**ASKED))
        assert text_of(first) == text_of(second)
        async with own.messages.stream(**ASKED) as stream:
            async for _ in stream.text_stream:
                break  # Leaving aborts the request.


for case in (whole, streams, ends, tools, forms, prefill, errors):
    case()
    sys.stdout.write(f"ok {case.__name__}\n")
asyncio.run(asynchronous())
sys.stdout.write("ok asynchronous\n")
