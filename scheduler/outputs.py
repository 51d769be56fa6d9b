"""What a step's result of a request looks like to whoever asked for it."""

from model.config import Manifest
from model.row import RowResult
from scheduler.messages import BlockCanvas, BlockOutput, FinishReason
from scheduler.sequence import Sequence


def block_output(
    sequence: Sequence,
    result: RowResult,
    first: int,
    end: int,
    *,
    reason: FinishReason | None = None,
    denoise_steps: int = 0,
    forward_passes: int = 0,
    canvas: BlockCanvas | None = None,
    partial: bool = False,
) -> BlockOutput:
    """The tokens of the current block from offset ``first`` up to ``end``, with what belongs to them."""
    logprobs = None
    if sequence.request.logprobs is not None:
        logprobs = [sequence.logprobs[offset] for offset in range(first, end + (reason == "stop"))]
    return BlockOutput(
        request_id=sequence.request.request_id,
        token_ids=result.tokens[first:end],
        denoise_steps=denoise_steps,
        forward_passes=forward_passes,
        cached_tokens=sequence.cached,
        queue_seconds=sequence.queued,
        finish_reason=reason,
        logprobs=logprobs,
        partial=partial,
        canvas=canvas,
    )


def block_canvas(sequence: Sequence, result: RowResult, manifest: Manifest) -> BlockCanvas:
    """The current block as it is after the step; remembers in the sequence when each token was finalised."""
    end = min(sequence.wanted, manifest.block_length)
    tokens = result.tokens[len(sequence.given) : end]
    shown = [None if token == manifest.mask_token_id else token for token in tokens]
    for offset, token in enumerate(shown):
        if token is not None:
            sequence.finalised_at.setdefault(offset, result.steps)
    return BlockCanvas(result.steps, shown, [sequence.finalised_at.get(offset) for offset in range(len(shown))])
