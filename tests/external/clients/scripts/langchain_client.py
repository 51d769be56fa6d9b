"""langchain-openai against a server: python langchain_client.py URL"""

import asyncio
import sys
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
FIELDS: dict[str, Any] = {
    "model": "cdlm-nano", "base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0, "max_tokens": 120,
}  # fmt: skip


class Order(BaseModel):
    """An order of fruit."""

    kind: Literal["apple", "pear"]
    count: int = Field(ge=0, le=99)


@tool
def buy(kind: Literal["apple", "pear"], count: int) -> str:
    """Buys fruit."""
    return f"bought {count} of {kind}"


def whole_and_streamed(model: ChatOpenAI) -> None:
    answer = model.invoke([HumanMessage(QUESTION)])
    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = list(model.stream([HumanMessage(QUESTION)]))
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0
    assert [found.text for found in model.batch([QUESTION, QUESTION])] == [answer.text] * 2


def tools(model: ChatOpenAI) -> None:
    """On chats or on responses."""
    bound = model.bind_tools([buy], tool_choice="required", parallel_tool_calls=False)
    answer = bound.invoke(QUESTION)
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert call["name"] == "buy"
    result = buy.invoke(call["args"])
    after = model.bind_tools([buy], tool_choice="none").invoke(
        [HumanMessage(QUESTION), answer, ToolMessage(result, tool_call_id=call["id"])]
    )
    assert not after.tool_calls
    gathered = None
    for chunk in bound.stream(QUESTION):
        gathered = chunk if gathered is None else gathered + chunk
    assert gathered is not None
    assert gathered.tool_calls[0]["args"] == call["args"]


def structured(model: ChatOpenAI) -> None:
    for method in ("json_schema", "function_calling"):
        answer = model.with_structured_output(Order, method=method).invoke(QUESTION)
        assert isinstance(answer, Order), method
    free = model.with_structured_output(None, method="json_mode").invoke(f"{QUESTION} Answer in JSON.")
    assert isinstance(free, dict)


def completions() -> None:
    llm = OpenAI(**FIELDS)
    assert "".join(llm.stream(QUESTION)) == llm.invoke(QUESTION)


async def asynchronous(*models: ChatOpenAI) -> None:
    for model in models:
        first, second = await asyncio.gather(model.ainvoke(QUESTION), model.ainvoke(QUESTION))
        assert first.text == second.text
        assert "".join([chunk.text async for chunk in model.astream(QUESTION)]) == first.text


def main() -> None:
    chat = ChatOpenAI(**FIELDS, temperature=0, stream_usage=True)
    responses = ChatOpenAI(**FIELDS, temperature=0, use_responses_api=True)
    whole_and_streamed(chat)
    whole_and_streamed(responses)
    sys.stdout.write("ok chats and responses\n")
    asyncio.run(asynchronous(chat, responses))
    sys.stdout.write("ok asynchronous\n")
    tools(chat)
    sys.stdout.write("ok tools\n")
    tools(responses)
    sys.stdout.write("ok tools on responses\n")
    structured(chat)
    structured(responses)
    sys.stdout.write("ok structured output\n")
    completions()
    sys.stdout.write("ok completions\n")


main()
