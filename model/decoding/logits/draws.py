"""Draws the tokens of a step's rows, with noise that depends on each row's seed and positions."""

from collections.abc import Callable

from torch import Tensor

from cdlm.model.decoding.logits.noise import gumbel_noise
from cdlm.model.decoding.logits.sampling import Filters, sample
from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.processor import Step
from cdlm.model.row import RowWork
from cdlm.model.uploads import place_on

# (logits [1, vocab], offset in the block) -> token id.
Pick = Callable[[Tensor, int], int]


def replace_drawn(step: Step, block_length: int) -> None:
    """Replaces the most probable token by a drawn one, in rows that sample; asks the device for the positions."""
    if all(work.sampling is None for work in step.works):
        return
    offsets = (step.chosen % block_length).tolist()
    for _, work, mine in step.rows():
        if work.sampling is not None:
            step.token[mine] = _draw(work, work.sampling, step.logits[mine], offsets[mine])


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
    filters = Filters.of([how] * len(logits), place_on(logits.device))
    return sample(logits, noise.to(logits.device), temperature=how.temperature, filters=filters)
