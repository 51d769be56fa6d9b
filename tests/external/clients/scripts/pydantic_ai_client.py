"""pydantic-ai against a server, on chats and on responses: python pydantic_ai_client.py URL"""

import asyncio
import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, ModelSettings, NativeOutput
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, ToolReturnPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

QUESTION = "Tom has 14 apples. Then Tom buys 3 bags of 12 apples. How many apples does Tom have now?"
PROVIDER = OpenAIProvider(base_url=f"{sys.argv[1]}/v1", api_key="none")
SETTINGS = ModelSettings(max_tokens=240, temperature=0, parallel_tool_calls=False)


class Order(BaseModel):
    """An order of fruit."""

    kind: Literal["apple", "pear"]
    count: Annotated[int, Field(ge=0, le=99)]


BUY = ToolDefinition(name="buy", description="Buys fruit.", parameters_json_schema=Order.model_json_schema())
LEAVE = ToolDefinition(name="leave")


async def texts(model: Model) -> None:
    agent = Agent(model, model_settings=SETTINGS, instructions="Answer briefly.")
    whole = await agent.run(QUESTION)
    assert whole.output
    assert whole.usage.output_tokens > 0
    assert (await agent.run("And now?", message_history=whole.all_messages())).output
    async with agent.run_stream(QUESTION) as stream:
        pieces = [delta async for delta in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == whole.output


async def structured(model: Model) -> None:
    """An agent whose only tool is its output has to call it."""
    for form in (Order, NativeOutput(Order)):
        agent: Any = Agent(model, output_type=form, model_settings=SETTINGS)
        whole = await agent.run(QUESTION)
        assert isinstance(whole.output, Order)
        async with agent.run_stream(QUESTION) as stream:
            assert await stream.get_output() == whole.output


async def tools(model: Model) -> None:
    """A call, its result, and the answer to that; the student cannot choose, so the request does."""
    forced = ModelRequestParameters(function_tools=[BUY, LEAVE], allow_text_output=False)
    history: list[ModelMessage] = [ModelRequest.user_text_prompt(QUESTION)]
    asked: dict[str, Any] = {"model_settings": SETTINGS, "model_request_parameters": forced}
    answer = await model_request(model, history, **asked)
    (call,) = answer.parts
    assert isinstance(call, ToolCallPart)
    assert call.tool_name in ("buy", "leave")
    if call.tool_name == "buy":
        Order.model_validate(call.args_as_dict())
    async with model_request_stream(model, history, **asked) as stream:
        async for _ in stream:
            pass
    (again,) = stream.get().parts
    assert isinstance(again, ToolCallPart)
    assert (again.tool_name, again.args_as_dict()) == (call.tool_name, call.args_as_dict())
    result = ToolReturnPart(call.tool_name, "bought 7", tool_call_id=call.tool_call_id)
    after = await model_request(model, [*history, answer, ModelRequest([result])], model_settings=SETTINGS)
    assert not after.tool_calls
    assert after.finish_reason == "stop"


async def errors(model: Model) -> None:
    found = None
    try:
        await Agent(model, model_settings=ModelSettings(temperature=3)).run(QUESTION)
    except ModelHTTPError as error:
        found = error
    assert found is not None
    assert found.status_code == 400
    assert "temperature" in str(found.body)


async def main() -> None:
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind("cdlm-nano", provider=PROVIDER)
        for case in (texts, structured, tools, errors):
            await case(model)
            sys.stdout.write(f"ok {kind.__name__} {case.__name__}\n")


asyncio.run(main())
