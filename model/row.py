"""What the runner is asked for a row of its batch, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a row draws tokens; a row without it takes the most probable one."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Span:
    """Known tokens whose keys and values are still to be computed: positions start, start + 1, ..."""

    start: int
    token_ids: list[int]
    causal: bool = False


@dataclass(frozen=True, slots=True)
class RowWork:
    """What one request needs in one step.

    Attributes:
        row: its row of the canvas.
        pages: its page table, long enough for the block.
        clean: spans to compute, in order, ending where the block begins (or none).
        block_start: position of the current block.
        denoise: whether the block's rows join the forward; false only where the block's first token is
            taken from the commit pass alone.
        sampling: ``None`` for greedy decoding.
        needs_entropy: whether its finalisation rule ranks by entropy.
    """

    row: int
    pages: list[int]
    clean: list[Span]
    block_start: int
    denoise: bool = True
    sampling: Sampling | None = None
    needs_entropy: bool = False


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's block after the step.

    Attributes:
        tokens: the block's ids, the mask token where nothing is finalised.
        frontier: length of the finalised left prefix.
        stop: offset of the first stop token, the block length if there is none.
        finalised: positions finalised in this step.
        steps: denoise steps the block has taken.
    """

    tokens: list[int]
    frontier: int
    stop: int
    finalised: int
    steps: int
