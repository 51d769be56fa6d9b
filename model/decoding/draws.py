"""How the rows of a step draw their tokens, each with the noise of its own seed."""

import torch
from torch import Tensor

from cdlm.model.decoding.processors.constrained import Pick
from cdlm.model.decoding.sampling import gumbel_noise, sample
from cdlm.model.row import RowWork, Sampling


class Draws:
    """Keeps the noise of the blocks in flight, so that a block draws it once: row -> (seed, start, noise)."""

    def __init__(self, block_length: int, device: torch.device) -> None:
        self.block_length, self.device = block_length, device
        self._noise: dict[int, tuple[int, int, Tensor]] = {}

    @property
    def rows(self) -> set[int]:
        """The rows that noise is kept for."""
        return set(self._noise)

    def release(self, row: int) -> None:
        """Forgets a row."""
        self._noise.pop(row, None)

    def replace(self, works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, token: Tensor) -> None:
        """Puts a drawn token in the place of the most probable one, in rows that ask for it.

        Args:
            works: the rows of the step.
            counts: how many of the predicted positions belong to each of them.
            chosen: [positions] int64, where each lies in [rows, block], flattened.
            logits: [positions, vocab].
            token: [positions] int64, changed in place.
        """
        end = 0
        for work, count in zip(works, counts, strict=True):
            mine, end = slice(end, end + count), end + count
            if work.sampling is not None:
                token[mine] = self._draw(work, work.sampling, logits[mine], chosen[mine] % self.block_length)

    def pick(self, work: RowWork) -> Pick:
        """How a row takes its token from the logits that a grammar has left."""
        how = work.sampling
        if how is None:
            return lambda logits, _offset: int(logits.argmax())
        return lambda logits, offset: int(self._draw(work, how, logits, torch.tensor([offset], device=self.device)))

    def _draw(self, work: RowWork, how: Sampling, logits: Tensor, offsets: Tensor) -> Tensor:
        """logits [positions, vocab] at ``offsets`` [positions] of the row's block -> [positions] int64."""
        kept = self._noise.get(work.row)
        if kept is None or kept[:2] != (how.seed, work.block_start):
            noise = gumbel_noise(how.seed, work.block_start, self.block_length, logits.shape[-1], self.device)
            kept = self._noise[work.row] = (how.seed, work.block_start, noise)
        noise = kept[2][offsets]
        return sample(logits, noise, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, min_p=how.min_p)
