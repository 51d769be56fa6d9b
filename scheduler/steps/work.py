"""What the work of a row amounts to."""

from cdlm.model.row import RowWork


def work_tokens(work: RowWork, block_length: int) -> int:
    """Tokens that a forward computes for one row; a guided one is computed twice."""
    once = sum(len(span.token_ids) for span in work.clean) + (block_length if work.denoise else 0)
    return 2 * once if work.guidance else once
