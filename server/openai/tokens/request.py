"""Bodies of the tokenizer routes."""

from typing import Annotated

from pydantic import Field

from cdlm.server.errors import invalid
from cdlm.server.openai.fields.row import DETOKENIZE, TOKENIZE
from cdlm.server.openai.protocol.fields import ModelFields
from cdlm.server.openai.protocol.message import Message
from cdlm.server.openai.protocol.prompt import ChatPromptFields

TokenId = Annotated[int, Field(ge=0)]

_ANY = {"model", "add_special_tokens", "return_token_strs"}


class TokenizeRequest(ModelFields, ChatPromptFields):
    """``POST /tokenize``: either a prompt, as completions have it, or messages, as chats do."""

    place = TOKENIZE

    prompt: str | list[TokenId] | None = Field(None, description="Text, or token ids.")
    suffix: str | None = Field(None, description="Text after the answer to a prompt.")
    messages: Annotated[list[Message], Field(min_length=1)] | None = Field(None, description="Those of a chat.")
    return_token_strs: bool = Field(False, description="Also return the tokens as the vocabulary has them.")

    def check(self) -> None:
        """Raises ``ApiError`` 400 unless exactly one of prompt and messages is given, without fields of the other."""
        if (self.prompt is None) == (self.messages is None):
            raise invalid("Send either prompt or messages", "prompt")
        other = {"messages"} | ChatPromptFields.field_names if self.messages is None else {"prompt", "suffix"}
        for name in sorted(self.model_fields_set & other - _ANY):
            raise invalid(f"{name} needs {'messages' if self.messages is None else 'prompt'}", name)
        if self.suffix and not isinstance(self.prompt, str):
            raise invalid("suffix needs a prompt that is text", "suffix")


class DetokenizeRequest(ModelFields):
    """``POST /detokenize``."""

    place = DETOKENIZE

    tokens: list[TokenId] = Field(description="Ids of the vocabulary.")
