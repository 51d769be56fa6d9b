"""Fields that determine the prompt of a chat, for all routes that render one."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, JsonValue

from cdlm.server.errors import invalid
from cdlm.server.openai.protocol.fields import ApiModel
from cdlm.server.openai.protocol.message import Message
from cdlm.server.openai.protocol.tools import MAX_TOOLS, Tool, ToolChoice, ToolUse
from cdlm.server.text import Chat
from cdlm.server.text.template import RESERVED


def _check_variables(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in value:
        if name in RESERVED:
            raise ValueError(f"{name!r} is no variable that a request may set here")
    return value


TemplateVariables = Annotated[dict[str, JsonValue], AfterValidator(_check_variables)]


class ChatPromptFields(ApiModel):
    """Fields of a chat that determine its prompt, except ``messages``, which routes define.

    ``tool_parameters`` is the path of a function's parameters, with a placeholder for its number.
    """

    tool_parameters: ClassVar[str] = "tools[{}].function.parameters"

    tools: list[Tool] = Field([], max_length=MAX_TOOLS, description="Functions that the model may call.")
    tool_choice: ToolChoice = Field(
        "auto",
        description="auto lets the model answer or call; required makes it call. The tools that "
        "it may call can be fewer than those in the prompt.",
    )
    add_generation_prompt: bool = Field(
        True,
        description="End the prompt where the assistant's answer begins. Absent is false with continue_final_message.",
    )
    continue_final_message: bool = Field(
        False, description="End the prompt with the text of the last message, which the answer continues."
    )
    chat_template: str | None = Field(
        None, description="A Jinja template for this chat; only with --trust-request-chat-template."
    )
    chat_template_kwargs: TemplateVariables = Field({}, description="Variables of the chat template, by their names.")
    add_special_tokens: bool | None = Field(
        None,
        description="Put around the text what the tokenizer puts around a prompt. Absent is false for chats, whose "
        "templates write what they need.",
    )

    def use_of_tools(self, *, several: bool = True) -> ToolUse:
        """The tools that the model may call; raises ``ApiError`` 400 if ``tool_choice`` does not fit ``tools``."""
        return ToolUse.of(
            [tool.function for tool in self.tools],
            self.tool_choice,
            several=several,
            parameters=self.tool_parameters,
        )

    def chat_of(self, messages: list[Message], *, trust_template: bool) -> Chat:
        """The input of the chat template; raises ``ApiError`` 400 for fields that conflict."""
        if self.chat_template is not None and not trust_template:
            message = "chat_template is not supported by this server unless it has --trust-request-chat-template"
            raise invalid(message, "chat_template")
        if self.continue_final_message:
            if self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
                message = "continue_final_message and add_generation_prompt cannot both be true"
                raise invalid(message, "continue_final_message")
            if messages[-1].tool_calls:
                message = "continue_final_message: the last message has tool_calls, behind which there is no text"
                raise invalid(message, "continue_final_message")
        return Chat(
            [message.fields() for message in messages],
            [function.declaration() for function in self.use_of_tools().functions],
            add_generation_prompt=self.add_generation_prompt and not self.continue_final_message,
            continue_final_message=self.continue_final_message,
            variables=self.chat_template_kwargs,
            template=self.chat_template,
        )
