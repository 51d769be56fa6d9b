"""The outputs of ``cdlm.LLM``."""

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log-probability before edits of logits; ``top``: token id -> that of the most likely ones."""

    token_id: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        index: its number among the answers to one prompt, from 0.
        text: the answer without end token, stop string and tool calls.
        token_ids: token ids of the whole answer.
        finish_reason: ``stop`` (end token or stop string), ``length`` (``max_tokens`` or context) or ``tool_calls``.
        stop_reason: the stop string or the id of ``stop_token_ids`` that ended the answer; ``None`` for other ends.
        logprobs: one per token in ``token_ids``, if requested.
        tool_calls: as in OpenAI's chats: objects with ``id`` and ``function`` (``name``, ``arguments``).
        step_map: the denoise step of its block that finalized each token, from 1; with ``return_step_map`` only.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    step_map: list[int] | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers to one prompt.

    Attributes:
        prompt_token_ids: token ids of the prompt, chat template included.
        outputs: the answers, ``SamplingParams.n`` of them.
        cached_tokens: prompt tokens that came from the prefix cache.
        denoise_steps: denoise steps of all answers; a step denoises one block once.
        forward_passes: forward passes of all answers: denoise steps, prefill, and commits of finished blocks.
    """

    prompt_token_ids: list[int]
    outputs: list[Completion]
    cached_tokens: int
    denoise_steps: int
    forward_passes: int

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return self.outputs[0].text


@dataclass(frozen=True, slots=True)
class Canvas:
    """A block after one of its denoise steps.

    Attributes:
        block: its number in the answer, counted from 0.
        step: how many denoise steps it has taken.
        tokens: the text of each token; ``None`` at masked positions.
    """

    block: int
    step: int
    tokens: list[str | None]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer ``index`` in a stream: a block, or with ``granularity="step"`` a part of one.

    ``finish_reason`` and ``stop_reason`` are set in the last chunk of an answer. ``tool_calls`` has parts of calls, as
    in OpenAI's streams; ``logprobs``, ``canvas`` and ``step_map`` are set if requested.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    canvas: Canvas | None = None
    step_map: list[int] | None = None
