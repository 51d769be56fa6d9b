"""How the rows of a step draw their tokens, each with the noise of its own seed and positions."""

from collections.abc import Callable

from torch import Tensor

from cdlm.model.decoding.noise import gumbel_noise
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.sampling import sample
from cdlm.model.row import RowWork

# The token that an offset of the block takes from some logits [1, vocab].
Pick = Callable[[Tensor, int], int]


def replace_drawn(
    works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, token: Tensor, block_length: int
) -> None:
    """Puts a drawn token in the place of the most probable one, in rows that ask for it.

    Args:
        works: the rows of the step.
        counts: how many of the predicted positions belong to each of them.
        chosen: [positions] int64, where each lies in [rows, block], flattened.
        logits: [positions, vocab].
        token: [positions] int64, changed in place.
    """
    if all(work.sampling is None for work in works):
        return
    offsets = (chosen % block_length).tolist()
    end = 0
    for work, count in zip(works, counts, strict=True):
        mine, end = slice(end, end + count), end + count
        if work.sampling is not None:
            token[mine] = _draw(work, work.sampling, logits[mine], offsets[mine])


def pick(work: RowWork) -> Pick:
    """How a row takes its token from the logits [1, vocab] that a grammar has left at an offset of its block."""
    how = work.sampling
    if how is None:
        return lambda logits, _offset: int(logits.argmax())
    return lambda logits, offset: int(_draw(work, how, logits, [offset]))


def _draw(work: RowWork, how: DecodingParams, logits: Tensor, offsets: list[int]) -> Tensor:
    """logits [positions, vocab] at ``offsets`` of the row's block -> [positions] int64."""
    assert how.seed is not None
    noise = gumbel_noise(how.seed, [work.block_start + offset for offset in offsets], logits.shape[-1])
    return sample(
        logits,
        noise.to(logits.device),
        temperature=how.temperature,
        top_k=how.top_k,
        top_p=how.top_p,
        min_p=how.min_p,
    )
