"""Bodies of requests for messages, and the chats that they stand for."""

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from cdlm.model.decoding.params import DecodingParams
from cdlm.server.anthropic.messages.turns import TextBlocks, Turn, chat_messages
from cdlm.server.openai.chat.request import ChatRequest
from cdlm.server.openai.fields.row import (
    COUNT_TOKENS,
    MESSAGES,
    MESSAGES_CHOICE,
    MESSAGES_TOOL,
    METADATA,
    OUTPUT_CONFIG,
    OUTPUT_FORMAT,
)
from cdlm.server.openai.protocol.conditions import given, implies
from cdlm.server.openai.protocol.effort import Effort
from cdlm.server.openai.protocol.fields import ApiModel, ModelFields
from cdlm.server.openai.protocol.formats import Constraint, Name
from cdlm.server.openai.protocol.tools import MAX_TOOLS
from cdlm.server.openai.protocol.values import MAX_STOPS, StopString


class MessagesTool(ApiModel):
    """A tool that the model may call; the client runs it. Arguments always follow ``input_schema``."""

    place = MESSAGES_TOOL
    kinds = ("custom",)

    type: Literal["custom"] = "custom"
    name: Name
    description: str = ""
    input_schema: dict[str, JsonValue] = Field(description="The JSON schema of the arguments, an object.")
    strict: bool = True

    def in_chat(self) -> dict[str, JsonValue]:
        """The tool as chats declare it."""
        function: dict[str, JsonValue] = {
            "name": self.name, "description": self.description, "parameters": self.input_schema
        }  # fmt: skip
        return {"type": "function", "function": function}


class MessagesToolChoice(ApiModel):
    """Whether the model answers or calls, and which tool."""

    place = MESSAGES_CHOICE
    conditions = (
        implies(given("type", "tool"), given("name")),
        implies(given("name"), given("type", "tool")),
    )

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="The tool of type tool.")
    disable_parallel_tool_use: bool = Field(False, description="At most one call.")

    @model_validator(mode="after")
    def _name_fits(self) -> "MessagesToolChoice":
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("name is required with type 'tool', and only there")
        return self

    def in_chat(self) -> JsonValue:
        """The choice as chats have it."""
        if self.name is not None:
            return {"type": "function", "function": {"name": self.name}}
        return {"any": "required"}.get(self.type, self.type)


class Metadata(ApiModel):
    """Who asks."""

    place = METADATA

    user_id: str | None = Field(None, description="Accepted without effect.")


class OutputFormat(ApiModel):
    """The schema of an answer that is JSON."""

    place = OUTPUT_FORMAT

    type: Literal["json_schema"]
    schema_: dict[str, JsonValue] = Field(alias="schema")


class OutputConfig(ApiModel):
    """The form of the answer, and its effort."""

    place = OUTPUT_CONFIG

    effort: Effort | None = Field(None, description="Sets the confidence that a token needs to be finalized.")
    format: OutputFormat | None = None


class _Chat(ChatRequest):
    """A chat whose errors name the fields of messages."""

    effort_param = "output_config.effort"
    tool_parameters = "tools[{}].input_schema"

    @property
    def constraint(self) -> Constraint | None:
        found = super().constraint
        return None if found is None else replace(found, param="output_config.format")


class MessagesPromptFields(ModelFields):
    """Fields that determine the prompt."""

    messages: list[Turn] = Field(min_length=1, description="The conversation so far, oldest turn first.")
    system: TextBlocks = Field([], description="The system prompt: text or text blocks.")
    tools: list[MessagesTool] = Field([], max_length=MAX_TOOLS, description="Tools that the model may call.")
    tool_choice: MessagesToolChoice = Field(
        MessagesToolChoice(type="auto"), description="auto lets the model answer or call; any and tool make it call."
    )

    def chat(self) -> ChatRequest:
        """The chat that the request stands for; raises ``ApiError`` 400 for turns that do not fit together."""
        messages = chat_messages(self.system, self.messages)
        body: dict[str, Any] = {
            "messages": messages,
            "tools": [tool.in_chat() for tool in self.tools],
            "tool_choice": self.tool_choice.in_chat(),
            "parallel_tool_calls": not self.tool_choice.disable_parallel_tool_use,
            "continue_final_message": messages[-1]["role"] == "assistant",
        }
        return _Chat.model_validate(body | self._more())

    def _more(self) -> dict[str, Any]:
        """More fields of the chat."""
        return {}


class CountTokensRequest(MessagesPromptFields):
    """``POST /v1/messages/count_tokens``."""

    place = COUNT_TOKENS


class MessagesRequest(MessagesPromptFields, DecodingParams):
    """``POST /v1/messages``."""

    place = MESSAGES

    max_tokens: int = Field(ge=1, description="Most tokens of the answer; exact.")
    stop_sequences: list[StopString] = Field(
        [], max_length=MAX_STOPS, description="Text that ends the answer and is left out of it."
    )
    stream: bool = Field(False, description="Send server-sent events as the answer grows.")
    output_config: OutputConfig = Field(
        OutputConfig(), description="effort: sets the confidence threshold; format: the answer is JSON of a schema."
    )
    metadata: Metadata = Field(Metadata(), description="user_id: accepted without effect.")

    def _more(self) -> dict[str, Any]:
        more: dict[str, Any] = {
            name: getattr(self, name) for name in DecodingParams.model_fields.keys() & self.model_fields_set
        }
        wanted = self.output_config.format
        if wanted is not None:
            more["response_format"] = {"type": "json_schema", "schema": wanted.schema_}
        return more | {
            "max_tokens": self.max_tokens,
            "stop": self.stop_sequences,
            "stream": self.stream,
            "reasoning_effort": self.output_config.effort,
        }
