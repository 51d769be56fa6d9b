"""Answers of ``/v1/fim/completions``."""

from cdlm.server.openai.completions.response import Completion, CompletionChunk
from cdlm.server.openai.protocol.response import InfillUsage


class FimCompletion(Completion):
    """The text between a prompt and a suffix."""

    usage: InfillUsage


class FimChunk(CompletionChunk):
    """An event of a stream; the one with the usage has no choices."""

    usage: InfillUsage | None = None
