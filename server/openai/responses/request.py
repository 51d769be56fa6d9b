"""The body of a request for a response."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue

from cdlm.scheduler.options import EngineOptions
from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import REASONING, RESPONSES, TEXT
from cdlm.server.openai.protocol.effort import Effort
from cdlm.server.openai.protocol.fields import AnswerFields, AnyStreamOptions, ApiModel
from cdlm.server.openai.protocol.formats import Constraint, TextFormat
from cdlm.server.openai.protocol.message import Message, chat_messages, listed
from cdlm.server.openai.protocol.prompt import TemplateVariables
from cdlm.server.openai.protocol.tools import MAX_TOOLS, ToolUse
from cdlm.server.openai.responses.items import InputItem
from cdlm.server.openai.responses.tools import FunctionTool, ToolChoice

LOGPROBS = "message.output_text.logprobs"

# All except log-probabilities concern items that this server never outputs.
Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


_Input = Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1)]


class TextConfig(ApiModel):
    """The form of the answer's text."""

    place = TEXT

    format: TextFormat = TextFormat(type="text")


class Reasoning(ApiModel):
    """Reasoning options."""

    place = REASONING

    effort: Effort | None = Field(None, description="Sets the confidence that a token needs to be finalized.")


class ResponsesRequest(AnswerFields):
    """``POST /v1/responses``."""

    place = RESPONSES

    effort_param: ClassVar[str] = "reasoning.effort"

    input: Annotated[list[InputItem], BeforeValidator(listed, json_schema_input_type=_Input), Field(min_length=1)] = (
        Field(description="Text of the user, or messages, calls and their results.")
    )
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="Most tokens of the answer; exact. Absent: the rest of the context."
    )
    text: TextConfig = Field(TextConfig(), description="format: free text, a JSON object, or JSON of a schema.")
    reasoning: Reasoning = Field(
        Reasoning(), description="effort: sets the confidence that a token needs to be finalized."
    )
    include: list[Includable] = Field([], description=f"{LOGPROBS} has an effect; no answer has what the others add.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="How many of the most likely tokens to report per token; needs include."
    )
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
    ] = Field({}, description="Returned as it is.")
    stream_options: AnyStreamOptions = Field(AnyStreamOptions(), description="No option has an effect here.")
    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS, description="Functions that the model may call.")
    tool_choice: ToolChoice = Field(
        "auto", description="auto leaves it to the model whether it answers or calls; required makes it call."
    )
    parallel_tool_calls: bool = Field(True, description="Whether an answer may have several calls.")
    max_tool_calls: int | None = Field(
        None, ge=0, description="Most calls of built-in tools, of which there are none; returned as it is."
    )

    chat_template_kwargs: TemplateVariables = Field({}, description="Variables of the chat template, by their names.")

    @property
    def constraint(self) -> Constraint | None:
        """The constraint on the answer; ``None`` for free text."""
        schema = self.text.format.schema_of_answer
        return None if schema is None else Constraint("json", schema, "text.format")

    @property
    def reports_logprobs(self) -> bool:
        """Whether the response has log-probabilities."""
        return LOGPROBS in self.include

    @property
    def engine_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.reports_logprobs else None

    @property
    def effort(self) -> Effort | None:
        return self.reasoning.effort

    @property
    def tool_use(self) -> ToolUse:
        """The functions that the model may call; raises ``ApiError`` 400 if ``tool_choice`` does not fit ``tools``."""
        return ToolUse.of(
            self.tools, self.tool_choice, several=self.parallel_tool_calls, parameters="tools[{}].parameters"
        )

    def messages(self) -> list[dict[str, JsonValue]]:
        """The messages for the chat template: instructions, then input.

        Raises ``ApiError`` 400 for a result without its call, and if there is no message.
        """
        first = [] if self.instructions is None else [Message(role="system", content=self.instructions)]
        messages = first + chat_messages(self.input)
        if not messages:
            raise invalid("input needs an item that is no reasoning", "input")
        return [message.fields() for message in messages]

    def check_supported(self, options: EngineOptions) -> None:
        super().check_supported(options)
        if self.top_logprobs and not self.reports_logprobs:
            raise invalid(f"top_logprobs needs include to have {LOGPROBS!r}", "top_logprobs")
        use = self.tool_use
        if self.ignore_eos and (use.functions or self.text.format.type != "text"):
            raise invalid("ignore_eos cannot be used with text.format or tools: their answers end", "ignore_eos")
        if self.diffusing and use.functions:
            raise invalid("diffusing cannot be used with tools here; use /v1/chat/completions", "diffusing")
