"""The body of a request for the text between a prompt and a suffix."""

from typing import Annotated

from pydantic import Field

from cdlm.server.openai.completions.request import CompletionRequest
from cdlm.server.openai.fields.row import FIM
from cdlm.server.openai.protocol.fields import AnswerFields, StreamOptions


class _Completion(CompletionRequest):
    """A completion whose answer has the room that answers have here."""

    max_tokens: int = 512


class FimRequest(AnswerFields):
    """``POST /v1/fim/completions``."""

    place = FIM

    prompt: Annotated[str, Field(min_length=1)] = Field(description="Text before the answer.")
    suffix: str = Field("", description="Text after the answer.")
    max_tokens: int = Field(
        512,
        ge=1,
        description="Most tokens of the answer; exact. Absent: 512, or the rest of the context if that is less.",
    )
    stream_options: StreamOptions = Field(
        StreamOptions(), description="include_usage and continuous_usage_stats: when a stream carries usage."
    )

    def completion(self) -> CompletionRequest:
        """The completion that the request stands for."""
        return _Completion.model_validate({name: getattr(self, name) for name in self.model_fields_set})
