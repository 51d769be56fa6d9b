"""One recorded decoding of the teacher: what it wrote, in which order, and the states that predicted it."""

from dataclasses import dataclass

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
    """

    prompt: list[int]
    truth: list[int]
    tokens: Tensor
    order: Tensor
    hidden: Tensor
    temperature: float
    generation_length: int

    @property
    def exact(self) -> bool:
        """Whether the teacher's answer equals the truth, end token included."""
        return self.tokens[: len(self.truth)].tolist() == self.truth
