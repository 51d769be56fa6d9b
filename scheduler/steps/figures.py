"""Computes the figures of a step."""

from typing import Any

from cdlm.model.row import GUIDE_NOT_FINITE, NOT_FINITE, RowWork
from cdlm.scheduler.messages import BlockOutput, Phase
from cdlm.scheduler.steps.batch import Batch, StepResult
from cdlm.scheduler.steps.faults import Fault


def step_figures(batch: Batch, result: StepResult, outputs: list[BlockOutput], block_length: int) -> dict[str, Any]:
    """The fields of ``EngineStats`` about one step; ``outputs`` are all outputs of the step."""
    works = [work for work, _ in result.done]
    verified = [(work.draft, len(each.following)) for work, each in result.done if work.draft]
    staged = not isinstance(result.staged, Fault) and result.staged > 0
    # Finished blocks; other outputs had no denoise step.
    ended = [output for output in outputs if output.denoise_steps and not output.partial]
    wanted = {sequence.request.request_id: sequence.wanted for sequence, _ in result.rows}
    stopped = [output.request_id for output in ended if output.finish_reason == "stop"]
    return {
        "forward_seconds": result.seconds,
        "phase": step_phase(works, staging=staged, scoring=result.score_rows > 0),
        "batch_rows": len(works) + staged + result.score_rows,
        "batch_tokens": result.tokens,
        "finalized_tokens": sum(each.finalized + len(each.following) for _, each in result.done),
        "replaced_tokens": sum(len(each.replaced) for _, each in result.done),
        "verifications": len(verified),
        "draft_tokens": sum(len(draft.candidates) for draft, _ in verified),
        "accepted_draft_tokens": sum(accepted for _, accepted in verified),
        "steps_per_block": [output.denoise_steps for output in ended],
        "queue_seconds": [sequence.queued for sequence in batch.admitted],
        "admitted_prompt_tokens": sum(sequence.prompt_length for sequence in batch.admitted)
        + result.score_prompt_tokens,
        "cached_prompt_tokens": sum(sequence.cached for sequence in batch.admitted) + result.score_cached_tokens,
        "preemptions": batch.preemptions,
        "halved_steps": result.halved,
        "recomputed_tokens": batch.recomputed,
        "early_stop_saved_blocks": sum(max(0, -(-wanted[each] // block_length) - 1) for each in stopped),
        "nonfinite_sequences": sum(output.error in (NOT_FINITE, GUIDE_NOT_FINITE) for output in outputs),
    }


def step_phase(works: list[RowWork], *, staging: bool, scoring: bool) -> Phase:
    """The kind of work of the step, or ``mixed``."""
    kinds: set[Phase] = {_kind(work) for work in works}
    if staging:
        kinds.add("prefill")
    if scoring:
        kinds.add("score")
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "idle"


def _kind(work: RowWork) -> Phase:
    if not work.clean:
        return "denoise"
    return "prefill" if work.clean[0].start == 0 else "commit"
