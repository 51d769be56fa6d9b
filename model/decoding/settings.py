"""Inputs of decoding: a request's settings, and a block's known tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.rules import FinalizationRule


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How all blocks of a request are decoded.

    Attributes:
        params: the request's parameters.
        rule: the finalization rule with its number.
        max_steps: most denoise steps per block.
        stop_ids: tokens that end the answer.
        prompt_ids: token ids of the prompt.
        grammar: the grammar that the answer must follow, if any.
        logprobs: how many alternatives to report with the log-probability of each finalized token; ``None`` reports no
            log-probabilities.
        border: [hidden], for shifted backbones: the hidden state of the last known token, if no forward will compute
            it.
        replace_above: the confidence above which another prediction replaces a decided token of the block; ``None``
            replaces none.
    """

    params: DecodingParams
    rule: FinalizationRule
    max_steps: int
    stop_ids: list[int]
    prompt_ids: list[int]
    grammar: CompiledGrammar | None = None
    logprobs: int | None = None
    border: Tensor | None = None
    replace_above: float | None = None


@dataclass(frozen=True, slots=True)
class BlockStart:
    """The tokens known before a block's first step.

    Attributes:
        given: prompt tokens at the block's beginning.
        generated: all tokens of finished blocks.
        left: positions from the block's beginning to the last token that the answer may have, ``given`` included.
        pinned: offset in the block -> known token after the end of the answer.
    """

    given: list[int]
    generated: list[int]
    left: int
    pinned: Mapping[int, int]
