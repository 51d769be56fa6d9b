"""Every field that the official client can send is known here, at every depth, so that none is refused as unknown."""

from types import ModuleType
from typing import Any

import pytest
from openai.types import completion_create_params as completions
from openai.types import shared_params
from openai.types.chat import (
    ChatCompletionAllowedToolChoiceParam,
    ChatCompletionAllowedToolsParam,
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessage,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
    ParsedChatCompletionMessage,
)
from openai.types.chat import chat_completion_message_function_tool_call_param as calls
from openai.types.chat import completion_create_params as chats
from openai.types.responses import (
    EasyInputMessageParam,
    FunctionToolParam,
    ResponseFormatTextJSONSchemaConfigParam,
    ResponseFunctionToolCallParam,
    ResponseInputTextParam,
    ResponseOutputMessageParam,
    ResponseOutputTextParam,
    ResponseReasoningItemParam,
    ResponseTextConfigParam,
    ToolChoiceAllowedParam,
    ToolChoiceFunctionParam,
)
from openai.types.responses import response_create_params as responses
from openai.types.responses.response_input_item_param import FunctionCallOutput
from openai.types.shared_params import response_format_json_schema as schemas
from pydantic import BaseModel

from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.fields.table import rows_of
from cdlm.server.openai.protocol.fields import AnyStreamOptions, ApiModel, StreamOptions
from cdlm.server.openai.protocol.formats import JsonSchema, ResponseFormat, TextFormat
from cdlm.server.openai.protocol.message import CallItem, Message, TextPart
from cdlm.server.openai.protocol.tools import (
    AllowedChoice,
    AllowedSet,
    CalledFunction,
    ChosenTool,
    Function,
    Tool,
    ToolCall,
)
from cdlm.server.openai.responses.items import ContentPart, MessageItem, ReasoningItem, ResultItem
from cdlm.server.openai.responses.request import Reasoning, ResponsesRequest, TextConfig
from cdlm.server.openai.responses.tools import AllowedTools, ChosenFunction, FunctionTool
from tests.support.server.bench import Bench


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
        (
            fields_of(
                ChatCompletionAssistantMessageParam, ChatCompletionToolMessageParam, ChatCompletionUserMessageParam,
                ChatCompletionFunctionMessageParam,
            ),
            Message,
        ),
        (fields_of(ChatCompletionContentPartTextParam), TextPart),
        (fields_of(ChatCompletionMessageFunctionToolCallParam), ToolCall),
        (fields_of(calls.Function), CalledFunction),
        (fields_of(ChatCompletionFunctionToolParam), Tool),
        (fields_of(shared_params.FunctionDefinition), Function),
        (fields_of(ChatCompletionNamedToolChoiceParam), ChosenTool),
        (fields_of(ChatCompletionAllowedToolChoiceParam), AllowedChoice),
        (fields_of(ChatCompletionAllowedToolsParam), AllowedSet),
        (fields_of(shared_params.ResponseFormatJSONSchema), ResponseFormat),
        (fields_of(schemas.JSONSchema), JsonSchema),
        (fields_of(responses.StreamOptions), AnyStreamOptions),
        (fields_of(ResponseTextConfigParam), TextConfig),
        (fields_of(ResponseFormatTextJSONSchemaConfigParam), TextFormat),
        (fields_of(responses.Reasoning), Reasoning),  # type: ignore[attr-defined]
        (fields_of(EasyInputMessageParam, ResponseOutputMessageParam), MessageItem),
        (fields_of(ResponseInputTextParam, ResponseOutputTextParam), ContentPart),
        (fields_of(ResponseFunctionToolCallParam) | {"async"}, CallItem),
        (fields_of(FunctionCallOutput), ResultItem),
        (fields_of(ResponseReasoningItemParam), ReasoningItem),
        (fields_of(FunctionToolParam) | {"async"}, FunctionTool),
        (fields_of(ToolChoiceFunctionParam), ChosenFunction),
        (fields_of(ToolChoiceAllowedParam), AllowedTools),
    ],
)  # fmt: skip
def test_every_field_is_known(sent: set[str], known: type[ApiModel]) -> None:
    assert sent
    assert sent <= known.field_names | rows_of(known.place).keys()


def test_no_object_of_a_body_is_left_out() -> None:
    """Each model of a body has a place of its own, which the table and messages name."""
    import cdlm.server.openai.chat.request
    import cdlm.server.openai.completions.request
    import cdlm.server.openai.responses.request
    import cdlm.server.openai.tokens.request  # noqa: F401

    known, models = [ApiModel], []
    for model in known:
        known += model.__subclasses__()
        if model.__module__.startswith("cdlm.server") and model.model_fields and "Fields" not in model.__name__:
            models.append(model)
    assert len(models) > 20
    assert all(model.place for model in models)


@pytest.mark.anyio
async def test_old_functions_point_to_tools(bench: Bench) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], "functions": [{"name": "f"}]}
    response = await bench.post("/v1/chat/completions", chat)
    assert response.json()["error"]["message"] == "functions is not supported by this server; use tools"


class Seen(BaseModel):
    """What a client makes of an answer."""

    count: int


@pytest.mark.anyio
@pytest.mark.parametrize(
    "message",
    [
        ParsedChatCompletionMessage[Seen](role="assistant", content='{"count":1}', refusal=None, parsed=Seen(count=1)),
        ChatCompletionMessage(role="assistant", content="hi", refusal=None, annotations=[], audio=None),
        ChatCompletionMessage.model_validate(
            {"role": "assistant", "content": "hi", "images": [], "provider_specific_fields": {"refusal": None}}
        ),
    ],
)
async def test_answers_that_a_client_holds_go_back_as_they_are(bench: Bench, message: BaseModel) -> None:
    sent = message.model_dump(exclude_unset=True, mode="json")  # As the client itself does with messages.
    response = await bench.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}, sent]})
    assert response.status_code == 200, response.text
