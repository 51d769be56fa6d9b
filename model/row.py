"""What the runner is asked for a row of its batch, and what it answers."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdlm.model.decoding.params import DecodingParams

# Why a row ends whose logits are NaN or infinite.
NOT_FINITE = "the model's logits are not finite"


@dataclass(frozen=True, slots=True)
class Span:
    """Known tokens whose keys and values are still to be computed: positions start, start + 1, ..."""

    start: int
    token_ids: list[int]
    causal: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of a row (``model/decoding/processors/guidance.py``).

    Attributes:
        scale: 0 is none.
        pages: the page table of the pass without the prompt; like the row's own, it holds what ``RowWork.clean`` lacks.
        prompt_length: positions below this are masked in that pass.
    """

    scale: float
    pages: list[int]
    prompt_length: int


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
        sampling: how its tokens are drawn, with a seed; ``None`` takes the most probable ones.
        needs_entropy: whether its finalization rule ranks by entropy.
        guidance: how its logits are moved away from those without its prompt; ``None`` leaves them.
        blank: how many tokens at the block's beginning belong to the prompt, in the pass without it; ``None`` in any
            other.
    """

    row: int
    pages: list[int]
    clean: list[Span]
    block_start: int
    denoise: bool = True
    sampling: "DecodingParams | None" = None
    needs_entropy: bool = False
    guidance: Guidance | None = None
    blank: int | None = None

    @property
    def plain(self) -> bool:
        """Whether rule and draw want nothing but the most probable token of each position, and how probable it is."""
        return not self.needs_entropy and self.sampling is None

    def tokens(self, block_length: int) -> int:
        """Tokens that a forward computes for the row; a guided one is computed twice."""
        once = sum(len(span.token_ids) for span in self.clean) + (block_length if self.denoise else 0)
        return 2 * once if self.guidance else once


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's log-probability in the model's own distribution, and the likeliest tokens in its place, best first."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's block after the step.

    Attributes:
        tokens: the block's ids, the mask token where nothing is finalized.
        frontier: length of the finalized left prefix.
        stop: offset of the first stop token, the block length if there is none.
        finalized: positions finalized in this step.
        steps: denoise steps the block has taken.
        scores: by offset, those of the positions finalized in this step, if they were asked for.
        error: why the row cannot be decoded any further, if so.
    """

    tokens: list[int]
    frontier: int
    stop: int
    finalized: int
    steps: int
    scores: dict[int, TokenScore] = field(default_factory=dict)
    error: str | None = None
