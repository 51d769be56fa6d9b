"""Which positions a step of the slow decoder finalizes with a guide model: a whole forward of it in every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.oracle.network import hidden_states
from tests.support.oracle.noise import draw


@dataclass(frozen=True)
class OracleGuide:
    """A next-token model."""

    weights: dict[str, Tensor]
    shape: Any


def pass_guide(
    guide: OracleGuide,
    ids: Sequence[int | None],
    predicted: dict[int, int],
    vocab_size: int,
    banned: list[int],
    temperature: float,
    seed: int,
) -> list[int]:
    """The predicted positions from the left on which the guide would have written the same token; at least the first.

    Args:
        ids: the tokens so far; ``None`` where there is none.
        predicted: position -> the diffusion model's token.
        vocab_size: the diffusion model's.
        banned: tokens that nobody writes.
    """
    head = guide.weights.get("lm_head.weight", guide.weights["embed_tokens.weight"])
    last = min(len(head), vocab_size) - 1
    line = torch.tensor([predicted.get(place, 0 if token is None else token) for place, token in enumerate(ids)])
    sees = torch.ones(len(line), len(line)).tril().bool()
    hidden = hidden_states(guide.weights, guide.shape, line.clamp(max=last), sees)
    passing: list[int] = []
    for position, token in predicted.items():
        logits = torch.full((vocab_size,), float("-inf"))
        logits[: last + 1] = (head @ hidden[position - 1])[: last + 1]
        logits[banned] = float("-inf")
        choice = draw(logits, temperature, seed, position) if temperature else int(logits.argmax())
        if choice != token:
            break
        passing.append(position)
    return passing or list(predicted)[:1]
