"""Builds the outputs of requests."""

import msgspec

from cdlm.model.config import Manifest
from cdlm.model.row import RowResult
from cdlm.scheduler.messages import BlockCanvas, BlockOutput, FinishReason, TokenLogprob
from cdlm.scheduler.sequence import Sequence


def step_output(sequence: Sequence, result: RowResult, manifest: Manifest) -> BlockOutput | None:
    """The request's output after a step: its finished block, a partial output, or ``None``.

    Updates the sequence's record of what was sent.
    """
    for offset, score in result.scores.items():
        sequence.logprobs[offset] = TokenLogprob(
            result.tokens[offset], score.logprob, result.steps, score.top_ids, score.top_logprobs
        )
    if sequence.request.stream_canvas or sequence.request.step_map:
        _note_steps(sequence, result, manifest)
    canvas = _block_canvas(sequence, result, manifest) if sequence.request.stream_canvas else None
    given, block = len(sequence.given), manifest.block_length
    first = given + sequence.sent
    reason: FinishReason | None = None
    own_stop: int | None = None
    partial = False
    if result.stop < min(result.frontier, sequence.wanted, block):
        reason, end = "stop", result.stop
        token = result.tokens[end]
        own_stop = token if sequence.request.ignore_eos or token not in manifest.stop_token_ids else None
    elif result.frontier >= sequence.wanted:
        reason, end = "length", sequence.wanted
    elif result.frontier >= block:
        end = block
    else:
        end = max(first, result.frontier) if sequence.request.stream_prefix else first
        if end == first and canvas is None:
            return None
        partial, sequence.sent = True, end - given
    logprobs = steps = None
    if sequence.request.step_map:
        steps = [sequence.finalized_at[offset] for offset in range(first, end)]
    if sequence.request.logprobs is not None:
        logprobs = [sequence.logprobs[offset] for offset in range(first, end + (reason == "stop"))]
    return BlockOutput(
        request_id=sequence.request.request_id,
        token_ids=result.tokens[first:end],
        denoise_steps=0 if partial else result.steps,
        forward_passes=0 if partial else sequence.forwards,
        cached_tokens=sequence.cached,
        queue_seconds=sequence.queued,
        finish_reason=reason,
        stop_token_id=own_stop,
        logprobs=logprobs,
        partial=partial,
        canvas=canvas,
        step_map=steps,
    )


def joined(first: BlockOutput, second: BlockOutput | None) -> BlockOutput:
    """One output for two finished blocks of a request that one forward has decided."""
    assert second is not None
    logprobs = None if first.logprobs is None else [*first.logprobs, *(second.logprobs or [])]
    steps = None if first.step_map is None else [*first.step_map, *(second.step_map or [])]
    canvas, more = first.canvas, second.canvas
    if canvas is not None and more is not None:
        canvas = BlockCanvas(canvas.step, canvas.token_ids + more.token_ids, canvas.steps + more.steps)
    return msgspec.structs.replace(
        first,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        canvas=canvas,
        step_map=steps,
        finish_reason=second.finish_reason,
        stop_token_id=second.stop_token_id,
    )


def _note_steps(sequence: Sequence, result: RowResult, manifest: Manifest) -> None:
    """Records in the sequence which tokens the step wrote: those that no step before did, and those it replaced."""
    for offset in range(len(sequence.given), min(sequence.wanted, manifest.block_length)):
        if result.tokens[offset] != manifest.mask_token_id:
            sequence.finalized_at.setdefault(offset, result.steps)
    for offset in result.replaced:
        sequence.finalized_at[offset] = result.steps


def _block_canvas(sequence: Sequence, result: RowResult, manifest: Manifest) -> BlockCanvas:
    """The generated positions of the current block after the step."""
    offsets = range(len(sequence.given), min(sequence.wanted, manifest.block_length))
    tokens = [result.tokens[offset] for offset in offsets]
    shown = [None if token == manifest.mask_token_id else token for token in tokens]
    steps = [sequence.finalized_at.get(offset) for offset in offsets]
    final = sequence.replace_above is None or result.frontier >= manifest.block_length
    return BlockCanvas(result.steps, shown, steps, final)
