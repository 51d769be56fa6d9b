"""Edits of logits and banned words, one token of the vocabulary at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class OracleEdits:
    """Edits of the logits, in the words of the API."""

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()


def edit(
    logits: Tensor, edits: OracleEdits, prompt: list[int], generated: list[int], index: int, stops: tuple[int, ...]
) -> Tensor:
    """Edits the logits of the answer's token ``index``, one token of the vocabulary at a time."""
    values = logits.tolist()
    seen = {*prompt, *generated}
    for token in range(len(values)):
        if token in seen:
            values[token] *= 1 / edits.repetition_penalty if values[token] > 0 else edits.repetition_penalty
        values[token] -= edits.frequency_penalty * generated.count(token)
        if token in generated:
            values[token] -= edits.presence_penalty
        bias = edits.logit_bias.get(token, 0.0)
        values[token] = -math.inf if bias == -100 else values[token] + bias
        if edits.allowed_token_ids and token not in edits.allowed_token_ids:
            values[token] = -math.inf
        if token in stops and index < edits.min_tokens:
            values[token] = -math.inf
    return torch.tensor(values)


def completes(line: Sequence[int | None], place: int, words: Sequence[Sequence[int]]) -> bool:
    """Whether the line contains one of the words, with one of its tokens at ``place``."""
    return any(
        list(line[start : start + len(word)]) == list(word)
        for word in words
        for start in range(max(0, place - len(word) + 1), place + 1)
    )
