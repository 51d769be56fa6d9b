"""What the work of a step amounts to, for its budget and its figures."""

from cdlm.model.row import RowWork
from cdlm.scheduler.messages import Phase


def work_tokens(work: RowWork, block_length: int) -> int:
    """Tokens that a forward computes for one row; a guided one is computed twice."""
    once = sum(len(span.token_ids) for span in work.clean) + (block_length if work.denoise else 0)
    return 2 * once if work.guidance else once


def step_phase(works: list[RowWork], *, staging: bool, scoring: bool) -> Phase:
    """What the step was: one kind of work, or a mixture."""
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
