"""What ``cdlm.LLM`` returns."""

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log-probability in the model's own distribution, and those of the likeliest in its place."""

    token_id: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        index: its number among the answers to one prompt, from 0.
        text: without the end token and the stop string that ended it; of a chat without its tool calls.
        token_ids: of the whole answer.
        finish_reason: ``stop``: an end token or a stop string; ``length``: the limit; ``tool_calls``: complete calls.
        stop_reason: the stop string, or the id in ``stop_token_ids``, that ended it; ``None`` for any other end.
        logprobs: one for each of ``token_ids``, if they were asked for.
        tool_calls: as in OpenAI's chats: objects with ``id`` and ``function``, which has ``name`` and ``arguments``.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers to one prompt.

    Attributes:
        prompt_token_ids: the prompt as the model read it.
        outputs: ``SamplingParams.n`` answers.
        cached_tokens: how many tokens of the prompt need not be computed again.
        denoise_steps: steps of all answers; in each of them a block was denoised once.
        forward_passes: of the model, for all answers: those steps, and those that computed the prompt and wrote
            finished blocks.
    """

    prompt_token_ids: list[int]
    outputs: list[Completion]
    cached_tokens: int
    denoise_steps: int
    forward_passes: int

    @property
    def text(self) -> str:
        """That of the first answer."""
        return self.outputs[0].text


@dataclass(frozen=True, slots=True)
class Canvas:
    """A block while it is denoised.

    Attributes:
        block: its number in the answer, from 0.
        step: how many denoise steps it has had.
        tokens: the text of each token, ``None`` where none is final yet.
    """

    block: int
    step: int
    tokens: list[str | None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a stream adds to answer ``index``: a block, or with ``granularity="step"`` a part of one.

    ``finish_reason`` and ``stop_reason`` come with the last chunk of an answer. ``tool_calls`` are parts of calls, as
    in OpenAI's streams; ``logprobs`` and ``canvas`` are there if they were asked for.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    canvas: Canvas | None = None
