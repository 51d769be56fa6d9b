"""Answers of ``/v1/edit/completions``."""

from typing import Literal

from pydantic import Field

from cdlm.server.answer import Answer
from cdlm.server.openai.protocol.response import InfillUsage, StopReason, TokenIds


class EditedMessage(Answer):
    """The message of an answer."""

    role: Literal["assistant"]
    content: str = Field(description="The rewritten code, in a fence of three backticks.")


class EditChoice(Answer):
    """One answer."""

    index: int
    message: EditedMessage
    finish_reason: Literal["stop", "length"]
    stop_reason: StopReason
    token_ids: TokenIds = None


class EditCompletion(Answer):
    """A rewritten piece of code."""

    id: str
    object: Literal["edit.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[EditChoice]
    usage: InfillUsage
