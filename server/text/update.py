"""The text and tokens that a block adds to an answer."""

from dataclasses import dataclass, field
from typing import Literal

from cdlm.scheduler.messages import BlockCanvas, TokenLogprob

Finish = Literal["stop", "length"]
StopReason = str | int | None


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token of the answer.

    Attributes:
        offset: number of characters before it in the text.
        token_id: the token.
        score: its log-probability; ``None`` for the first token of a prompt, which nothing predicts.
    """

    offset: int
    token_id: int
    score: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Update:
    """The text and tokens that one block, or a part of it, adds to a choice.

    ``logprobs`` is empty and ``canvas``, the current state of block number ``block``, is unset unless requested.
    ``step_map``, if requested, has for each of its tokens the denoise step of its block that finalized it.
    ``cut`` means that something other than an end token ended the answer. ``stop_reason`` is the stop string, or the
    request's stop token, that ended the choice.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: Finish | None
    logprobs: list[PlacedToken] = field(default_factory=list)
    block: int = 0
    canvas: BlockCanvas | None = None
    step_map: list[int] = field(default_factory=list)
    cut: bool = False
    stop_reason: StopReason = None
