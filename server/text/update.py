"""What a block adds to an answer."""

from dataclasses import dataclass, field
from typing import Literal

from cdlm.scheduler.messages import BlockCanvas, TokenLogprob

Finish = Literal["stop", "length"]
StopReason = str | int | None


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token of the answer.

    Attributes:
        offset: characters of the text before it.
        token_id: the token.
        score: its log-probability; ``None`` for the first token of a prompt, before which there is nothing.
    """

    offset: int
    token_id: int
    score: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Update:
    """What one block, or a part of it, added to one choice.

    ``logprobs`` is empty unless they were asked for. ``canvas`` is how block number ``block`` looks now, likewise.
    ``cut`` tells that the answer was ended by something else than an end token. ``stop_reason`` is the stop string,
    or the stop token of the request's own, that ended the choice.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: Finish | None
    logprobs: list[PlacedToken] = field(default_factory=list)
    block: int = 0
    canvas: BlockCanvas | None = None
    cut: bool = False
    stop_reason: StopReason = None
