"""The body of a chat request."""

from pydantic import Field

from cdlm.scheduler.options import EngineOptions
from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import CHATS
from cdlm.server.openai.forms.structured import FormFields
from cdlm.server.openai.protocol.fields import GenerationFields
from cdlm.server.openai.protocol.message import Message
from cdlm.server.openai.protocol.prompt import ChatPromptFields
from cdlm.server.openai.protocol.tools import ToolUse
from cdlm.server.text import Chat


class ChatRequest(ChatPromptFields, GenerationFields, FormFields):
    """``POST /v1/chat/completions``."""

    place = CHATS

    messages: list[Message] = Field(min_length=1, description="The conversation so far, oldest message first.")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens of an answer; absent: the rest of the context."
    )
    max_tokens: int | None = Field(None, ge=1, description="Older name of max_completion_tokens.")
    logprobs: bool = Field(False, description="Report the log-probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="How many of the most likely tokens to report per token; needs logprobs."
    )
    parallel_tool_calls: bool = Field(True, description="Whether an answer may have several calls.")

    @property
    def token_limit(self) -> int | None:
        """The limit, by either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_name(self) -> str | None:
        """The name of the field that set the limit."""
        if self.token_limit is None:
            return None
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def tool_use(self) -> ToolUse:
        """The tools that the model may call; raises ``ApiError`` 400 if ``tool_choice`` does not fit ``tools``."""
        return self.use_of_tools(several=self.parallel_tool_calls)

    def chat(self, *, trust_template: bool) -> Chat:
        """The input of the chat template; raises ``ApiError`` 400 for fields that conflict."""
        return self.chat_of(self.messages, trust_template=trust_template)

    @property
    def engine_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check_supported(self, options: EngineOptions) -> None:
        super().check_supported(options)
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        if self.vote and self.tool_use.functions:
            raise invalid("vote cannot be combined with tools: it compares texts", "vote")
        constraint = self.constraint
        if (self.tool_use.functions or constraint) and self.ignore_eos:
            what = "tools" if constraint is None else constraint.param
            raise invalid(f"ignore_eos cannot be used with {what}: such answers end", "ignore_eos")
