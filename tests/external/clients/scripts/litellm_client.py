"""litellm against a server: python litellm_client.py URL"""

import asyncio
import json
import sys
from typing import Any

import litellm

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
MESSAGES = [{"role": "user", "content": QUESTION}]
WHERE: dict[str, Any] = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "num_retries": 0}
CHAT: dict[str, Any] = {"model": "openai/cdlm-nano", "messages": MESSAGES, "max_tokens": 120, **WHERE}
ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["apple", "pear"]}, "count": {"type": "integer"}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "buy", "parameters": ORDER}}]


def chats() -> None:
    whole = litellm.completion(**CHAT)
    assert whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(**CHAT, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert litellm.stream_chunk_builder(chunks).choices[0].message.content == text


async def asynchronous() -> None:
    first, second = await asyncio.gather(litellm.acompletion(**CHAT), litellm.acompletion(**CHAT))
    assert first.choices[0].message.content == second.choices[0].message.content


def together() -> None:
    asyncio.run(asynchronous())


def tools() -> None:
    fields = CHAT | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = litellm.completion(**fields).choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"kind", "count"}
    streamed = litellm.stream_chunk_builder(list(litellm.completion(**fields, stream=True)))
    assert streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments


def structured() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "order", "schema": ORDER, "strict": True}}
    answer = litellm.completion(**CHAT, response_format=schema)
    assert set(json.loads(answer.choices[0].message.content)) == {"kind", "count"}


def completions() -> None:
    fields = {"model": "text-completion-openai/cdlm-nano", "prompt": QUESTION, "max_tokens": 60, **WHERE}
    whole = litellm.text_completion(**fields)
    streamed = "".join(chunk.choices[0].text or "" for chunk in litellm.text_completion(**fields, stream=True))
    assert streamed == whole.choices[0].text


def responses() -> None:
    fields = {"model": "openai/cdlm-nano", "input": QUESTION, "max_output_tokens": 80, **WHERE}
    whole = litellm.responses(**fields)
    text = whole.output[0].content[0].text
    events = list(litellm.responses(**fields, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text


def response_tools() -> None:
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    fields = {
        "model": "openai/cdlm-nano",
        "max_output_tokens": 200,
        "tools": tools,
        "parallel_tool_calls": False,
        **WHERE,
    }
    whole = litellm.responses(**fields, input=QUESTION, tool_choice="required")
    (call,) = whole.output
    assert set(json.loads(call.arguments)) == {"kind", "count"}
    events = list(litellm.responses(**fields, input=QUESTION, tool_choice="required", stream=True))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments
    assert events[-1].type == "response.completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "bought"}
    history = [{"role": "user", "content": QUESTION}, dict(call), result]
    after = litellm.responses(**fields, input=history, tool_choice="none")
    assert [item.type for item in after.output] == ["message"]


def refused(kind: type[Exception], **fields: Any) -> str:
    try:
        litellm.completion(**CHAT | fields)
    except kind as error:
        return str(error)
    raise SystemExit(f"{fields} was served")


def errors() -> None:
    assert "temperature" in refused(litellm.BadRequestError, temperature=3)
    long = [{"role": "user", "content": "word " * 4000}]
    assert "maximum context length" in refused(litellm.ContextWindowExceededError, messages=long)


def main() -> None:
    litellm.telemetry = False
    for case in (chats, together, tools, structured, completions, responses, response_tools, errors):
        case()
        sys.stdout.write(f"ok {case.__name__}\n")


main()
