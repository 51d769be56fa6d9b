"""Every field that the official client can send is known here, so that none is passed over as an unknown one."""

from types import ModuleType
from typing import Any

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import ChatCompletionStreamOptionsParam
from openai.types.chat import completion_create_params as chats
from openai.types.chat.chat_completion_assistant_message_param import ChatCompletionAssistantMessageParam
from openai.types.chat.chat_completion_tool_message_param import ChatCompletionToolMessageParam
from openai.types.responses import ResponseTextConfigParam
from openai.types.responses import response_create_params as responses
from pydantic import BaseModel

from server.protocol.chat import ChatRequest, Message
from server.protocol.common import ObfuscationOptions, StreamOptions
from server.protocol.completions import CompletionRequest
from server.protocol.responses import Reasoning, ResponsesRequest, TextConfig
from tests.server.conftest import Bench


def fields_of(*shapes: Any) -> set[str]:
    return {name for shape in shapes for name in shape.__annotations__}


def body_of(module: ModuleType) -> set[str]:
    shapes = [shape for name, shape in vars(module).items() if name.endswith(("ParamsBase", "ParamsStreaming"))]
    assert len(shapes) == 2
    return fields_of(*shapes)


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        (body_of(completions), CompletionRequest),
        (body_of(chats), ChatRequest),
        (body_of(responses), ResponsesRequest),
        (fields_of(ChatCompletionStreamOptionsParam), StreamOptions),
        (fields_of(ChatCompletionAssistantMessageParam, ChatCompletionToolMessageParam), Message),
        (fields_of(responses.StreamOptions), ObfuscationOptions),
        (fields_of(ResponseTextConfigParam), TextConfig),
        (fields_of(responses.Reasoning), Reasoning),
    ],
)
def test_every_field_is_known(sent: set[str], known: type[BaseModel]) -> None:
    assert sent
    names = {field.alias or name for name, field in known.model_fields.items()}
    assert sent <= names


@pytest.mark.anyio
async def test_old_functions_point_to_tools(bench: Bench) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "functions": [{"name": "f"}]}
    response = await bench.post("/v1/chat/completions", chat)
    assert response.json()["error"]["message"] == "functions is not supported by this server; use tools"
    # Nothing may be called, so nothing is left out.
    response = await bench.post("/v1/chat/completions", chat | {"function_call": "none"})
    assert response.status_code == 200, response.text
