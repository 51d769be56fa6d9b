"""Bodies of the tokenizer routes."""

from typing import Annotated

from pydantic import Field

from server.protocol.chat import Message
from server.protocol.common import ApiModel
from server.protocol.fields.row import DETOKENIZE, TOKENIZE


class TokenizeRequest(ApiModel):
    """``POST /tokenize``: either a prompt or messages."""

    place = TOKENIZE

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None


class DetokenizeRequest(ApiModel):
    """``POST /detokenize``."""

    place = DETOKENIZE

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
