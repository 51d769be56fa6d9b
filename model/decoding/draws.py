"""Draws the tokens of a step's rows, with noise that depends on each row's seed and positions."""

from collections.abc import Callable

from torch import Tensor

from cdlm.model.decoding.noise import gumbel_noise
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.sampling import sample
from cdlm.model.row import RowWork

# (logits [1, vocab], offset in the block) -> token id.
Pick = Callable[[Tensor, int], int]


def replace_drawn(
    works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, token: Tensor, block_length: int
) -> None:
    """Replaces the most probable token by a drawn one, in rows that sample.

    Args:
        works: the rows of the step.
        counts: predicted positions per row.
        chosen: [positions] int64, index of each position in [rows, block], flattened.
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
    """Returns the function that chooses a row's token from logits: argmax, or a draw if the row samples."""
    how = work.sampling
    if how is None:
        return lambda logits, _offset: int(logits.argmax())
    return lambda logits, offset: int(_draw(work, how, logits, [offset]))


def _draw(work: RowWork, how: DecodingParams, logits: Tensor, offsets: list[int]) -> Tensor:
    """Draws one token per position: logits [positions, vocab] at ``offsets`` of the block -> [positions] int64."""
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
