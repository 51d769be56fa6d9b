"""Parts of responses shared by several routes."""

from typing import Annotated, Literal

from pydantic import Field

from cdlm.server.answer import Answer

TokenIds = Annotated[list[int] | None, Field(description="Only with return_token_ids.")]
StepMap = Annotated[
    list[int] | None,
    Field(description="Only with return_step_map: the denoise step of its block that finalized each token, from 1."),
]
StopReason = Annotated[
    str | int | None,
    Field(description="The stop string or the id in stop_token_ids that ended the answer; null for any other end."),
]


class VoteResult(Answer):
    """What the answers to a prompt agreed on."""

    answer: str | None = Field(description="The text that won; null if the pattern found nothing in any answer.")
    count: int = Field(description="Answers with this text.")
    counts: dict[str, int] = Field(description="Answers with each text.")
    unmatched: int = Field(description="Answers in which the pattern found nothing.")


Vote = Annotated[VoteResult | None, Field(description="Only with vote.")]


class CachedTokens(Answer):
    """Prompt tokens that came from the prefix cache."""

    cached_tokens: int


class InputDetails(CachedTokens):
    """Details of the input tokens."""

    cache_write_tokens: Literal[0] = Field(description="Cache writes are not counted.")


class OutputDetails(Answer):
    """Details of the output tokens."""

    reasoning_tokens: Literal[0]


class Work(Answer):
    """The work for an answer."""

    total_tokens: int
    denoise_steps: int = Field(description="Denoise steps of all blocks.")
    forward_passes: int = Field(description="Forward passes that the request took part in.")
    tokens_per_forward: float = Field(description="Answer tokens per forward pass.")
    confidence_threshold: float | None = Field(
        None, description="Only with --threshold-under-load and the rule threshold: the threshold that was used."
    )


class Usage(Work):
    """Tokens and work of a request."""

    prompt_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens: int = Field(description="Tokens of all answers, also of those that best_of drops.")


class InfillUsage(Usage):
    """Tokens and work, with the names of Inception's API besides."""

    reasoning_tokens: int = Field(description="Always 0: what a model thinks is not told apart from its answer.")
    cached_input_tokens: int = Field(description="The cached_tokens of prompt_tokens_details.")

    @classmethod
    def of(cls, usage: Usage) -> "InfillUsage":
        """The same figures with both names."""
        cached = usage.prompt_tokens_details.cached_tokens
        return cls(**usage.model_dump(exclude_unset=True), reasoning_tokens=0, cached_input_tokens=cached)


class Canvas(Answer):
    """The block being denoised; parallel lists, null where nothing is finalized."""

    block: int = Field(description="Number of the block, from 0.")
    step: int = Field(description="Denoise step of the block, from 1.")
    tokens: list[str | None]
    steps: list[int | None] = Field(description="The step that wrote each token, the last one if several did.")
    final: bool = Field(description="Whether tokens stay as they are: not while an edit_threshold may replace them.")


class LikelyToken(Answer):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredToken(LikelyToken):
    """A token of the answer, and the most likely tokens at its position."""

    top_logprobs: list[LikelyToken]
    denoise_step: int = Field(description="The step of its block that finalized it, from 1.")
