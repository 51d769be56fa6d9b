"""How many rows a batch should have: as many as share a reading of the weights, and no more than find room."""

from dataclasses import dataclass

from cdlm.model.config import Manifest
from cdlm.model.roofline.cost import Decoding, ModelCost
from cdlm.model.roofline.roof import Roof, ridge_batch, whole_batch

# Rows where the device's rates are not known.
DEFAULT_ROWS = 64
UNMEASURED = "the rates of a CPU are not known, and are not measured at the start"
# Positions that a row has cached, as in ``cdlm plan``, unless the context is shorter.
TYPICAL_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class RowChoice:
    """A number of rows, and why it is that one."""

    rows: int
    reason: str


def typical_context(manifest: Manifest) -> int:
    """Positions that a row has cached when its forward runs: ``TYPICAL_CONTEXT``, or what a short context leaves."""
    return max(1, min(TYPICAL_CONTEXT, manifest.max_model_len - manifest.block_length))


def typical_decoding(manifest: Manifest) -> Decoding:
    """Averages of decoding that ``cdlm plan`` assumes too: an eighth of a block per forward, answers of 256 tokens."""
    block = manifest.block_length
    blocks = -(-256 // block)
    return Decoding(
        block_length=block,
        tokens_per_forward=max(1.0, block / 8),
        commit_share=1.0 if block == 1 else (blocks - 1) / blocks,
        commit_alone=manifest.first_token == "autoregressive",
    )


def rows_by_rates(cost: ModelCost, roof: Roof, decoding: Decoding, context: int, device: str) -> RowChoice | None:
    """The rows from which on a forward's arithmetic takes longer than its memory traffic.

    Up to there, rows share the time in which the weights are read; further ones only make each slower. ``None`` if no
    number of rows has so much arithmetic, so that only the room bounds it. So many rows read nearly all experts.
    """
    rows = whole_batch(ridge_batch(cost.student_row(decoding, context), cost.weights, roof))
    if rows is None:
        return None
    return RowChoice(
        rows,
        f"from there on {device} takes longer to compute than to read the weights, with {context} cached tokens and"
        f" {decoding.tokens_per_forward:g} tokens per forward",
    )


def rows_in_pool(pages: int, page_size: int, positions: int) -> RowChoice:
    """As many rows of ``positions`` positions as the KV pool holds."""
    rows = pages // -(-positions // page_size)
    return RowChoice(max(1, rows), f"the KV pool holds no more requests of {positions} positions")


def rows_in_step(max_num_batched_tokens: int, block_length: int) -> RowChoice:
    """As many rows as a step has room for."""
    rows = max(1, max_num_batched_tokens // block_length)
    return RowChoice(rows, f"a step of {max_num_batched_tokens} tokens has no room for more blocks of {block_length}")


def fewest(*choices: RowChoice | None) -> RowChoice:
    """The choice of the fewest rows; of equal ones the first."""
    return min((choice for choice in choices if choice is not None), key=lambda choice: choice.rows)
