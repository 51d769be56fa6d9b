"""One recorded decoding of the teacher: what it wrote, in which order, and the states that predicted it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A decoding that fixes every intermediate state: after k finalizations the positions with order < k are known.

    Attributes:
        prompt: ids of the prompt, at least one.
        truth: ids of the reference answer, ending with one end token.
        tokens: [n] int64, the decoded ids; n is a multiple of the block length.
        order: [n] int64, ``order[i] == k`` where position i was the (k+1)-th to be finalized.
        hidden: [n, hidden_size] bfloat16, the teacher's last hidden state that predicted each position at the step
            that finalized it (for a shifted backbone the row before it), so ``lm_head(hidden)`` are its logits.
        temperature: the teacher's sampling temperature; 0 is greedy.
        generation_length: masks on the teacher's canvas at the start, at least n.

    Raises:
        ValueError: the fields contradict each other; the message names the field.
    """

    prompt: list[int]
    truth: list[int]
    tokens: Tensor
    order: Tensor
    hidden: Tensor
    temperature: float
    generation_length: int

    def __post_init__(self) -> None:
        length = len(self.tokens)
        if not self.prompt:
            raise ValueError("prompt is empty")
        if not self.truth:
            raise ValueError("truth is empty")
        if self.tokens.shape != (length,) or self.tokens.dtype != torch.int64 or not length:
            raise ValueError(f"tokens must be a non-empty int64 vector, got {_describe(self.tokens)}")
        if self.order.shape != (length,) or self.order.dtype != torch.int64:
            raise ValueError(f"order must be int64 of length {length} like tokens, got {_describe(self.order)}")
        if self.hidden.ndim != 2 or len(self.hidden) != length or self.hidden.dtype != torch.bfloat16:
            raise ValueError(f"hidden must be bfloat16 [{length}, hidden_size], got {_describe(self.hidden)}")
        if not torch.equal(self.order.sort().values, torch.arange(length)):
            raise ValueError(f"order is not a permutation of 0..{length - 1}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.generation_length < length:
            raise ValueError(f"generation_length {self.generation_length} is below the {length} decoded tokens")

    @property
    def exact(self) -> bool:
        """Whether the teacher's answer equals the truth, end token included."""
        return self.tokens[: len(self.truth)].tolist() == self.truth

    def check_blocks(self, block_length: int) -> None:
        """Raises ``ValueError`` unless ``order`` finishes blocks of ``block_length`` one after another."""
        check_block_order(self.order, block_length)


def check_block_order(order: Tensor, block_length: int) -> None:
    """Raises ``ValueError`` unless order [n] finishes blocks of ``block_length`` one after another.

    A permutation does so exactly if every position's rank lies in the position's own block.
    """
    if len(order) % block_length:
        raise ValueError(f"order: {len(order)} positions are not a multiple of the block length {block_length}")
    wrong = (order // block_length != torch.arange(len(order)) // block_length).nonzero()
    if len(wrong):
        position = int(wrong[0])
        raise ValueError(
            f"order does not go block by block: position {position} of block {position // block_length} "
            f"has order {int(order[position])}, which belongs to block {int(order[position]) // block_length}"
        )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
