"""How a request's blocks are decoded, and what is known of a block before its first step."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import FinalizationRule


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How a request's blocks are decoded, from its first block to its last.

    Attributes:
        params: what the request asks for.
        rule: which positions a step finalizes.
        max_steps: most denoise steps per block.
        stop_ids: tokens that end the answer.
        prompt_ids: the prompt.
        grammar: what the answer must follow, if anything.
        logprobs: how many alternatives to report with the log-probability of each finalized token; ``None`` reports
            none at all.
        border: [hidden], the state behind the known tokens, where no forward will bring it.
    """

    params: DecodingParams
    rule: FinalizationRule
    max_steps: int
    stop_ids: list[int]
    prompt_ids: list[int]
    grammar: CompiledGrammar | None = None
    logprobs: int | None = None
    border: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BlockStart:
    """What is known of a block before its first step.

    Attributes:
        given: prompt tokens at its beginning.
        generated: all tokens of finished blocks.
        left: positions from its beginning to the last token that the answer may have, given ones included.
        pinned: known tokens behind the end of the answer, by their offset.
    """

    given: list[int]
    generated: list[int]
    left: int
    pinned: Mapping[int, int]
