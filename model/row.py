"""Input and output of the runner, per row of its batch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdlm.model.decoding.params import DecodingParams

# Rows in front of a group that drafts in place.
LEAD = 2

# The error of a row whose logits are NaN or infinite.
NOT_FINITE = "the model's logits are not finite"
# The error of a row whose guide model computes such numbers: they would stay in its pages.
GUIDE_NOT_FINITE = "the guide model's hidden states are not finite"


@dataclass(frozen=True, slots=True)
class Span:
    """Known tokens at positions start, start + 1, ... whose keys and values are not computed yet."""

    start: int
    token_ids: list[int]
    causal: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of a row (``model/decoding/processors/guidance.py``).

    Attributes:
        scale: the guidance scale; 0 means no guidance.
        pages: the page table of the pass without the prompt; holds the tokens that ``RowWork.clean`` lacks.
        prompt_length: positions below this are masked in that pass.
    """

    scale: float
    pages: list[int]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Draft:
    """Drafted tokens that a step verifies, and masked rows that draft the next ones.

    The last known token and each candidate have a clean row, which predicts the token behind it. As long as these
    predictions agree with the candidates, they are the answer.

    Attributes:
        candidates: drafted tokens at positions ``block_start``, ``block_start`` + 1, ...
        behind: how many masked rows draft behind the last known token, and behind each candidate.
        in_place: whether they draft in place (``GatedDrafts``). Then a group has ``LEAD`` rows more, in front: the
            known token once more, and the mask of the token that its clean row predicts.
    """

    candidates: list[int]
    behind: list[int]
    in_place: bool = False

    @property
    def lead(self) -> int:
        """Rows in front of those that draft, in each group."""
        return LEAD if self.in_place else 0

    @property
    def tokens(self) -> int:
        """Number of tokens in the forward."""
        return len(self.candidates) + sum(rows + self.lead for rows in self.behind if rows)


@dataclass(frozen=True, slots=True)
class RowWork:
    """The work of one request in one step.

    Attributes:
        row: its index in the canvas.
        pages: its page table, long enough for the block.
        clean: known tokens to compute, in order, ending where the block begins; may be empty.
        block_start: position of the current block.
        denoise: whether the block joins the forward; false only if its first token is taken from the commit pass alone.
        sampling: how tokens are sampled, with a seed; ``None`` decodes greedily.
        needs_entropy: whether its finalization rule ranks by entropy.
        guidance: the row's classifier-free guidance, if any.
        blank: in a pass without the prompt, how many tokens at the block's beginning belong to it; else ``None``.
        draft: what is verified and drafted in this step; ``None`` if nothing is. Then ``clean`` is not empty, and
            ``denoise`` is false.
        by_guide: whether a guide model decides how many positions are finalized.
        before: the token in front of the block, for a guide model; ``None`` if there is no such token or no guide.
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
    draft: Draft | None = None
    by_guide: bool = False
    before: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the row needs only the most probable token of each position and its probability, not all logits."""
        return not self.needs_entropy and self.sampling is None

    def tokens(self, block_length: int) -> int:
        """Tokens that a forward computes for the row; twice as many if it is guided."""
        once = sum(len(span.token_ids) for span in self.clean) + (block_length if self.denoise else 0)
        once += self.draft.tokens if self.draft else 0
        return 2 * once if self.guidance else once


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token's natural log-probability before edits, and the most likely tokens at its position, best first."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row's block after the step.

    Attributes:
        tokens: the block's ids; the mask token at masked positions.
        frontier: number of leading positions whose tokens are final. In rows that replace decided tokens, no generated
            token is before the block is finished.
        stop: offset of the first stop token; the block length if there is none.
        finalized: number of masked positions that got a token in this step.
        steps: denoise steps the block has taken.
        scores: offset -> score, for tokens written in this step, if the request wants them.
        error: why the row cannot continue; ``None`` if it can.
        following: the results of the blocks after it, if drafts for them were verified in the same step.
        drafted: drafted tokens behind the last of these blocks.
        replaced: offsets of decided positions whose token this step replaced.
    """

    tokens: list[int]
    frontier: int
    stop: int
    finalized: int
    steps: int
    scores: dict[int, TokenScore] = field(default_factory=dict)
    error: str | None = None
    following: "list[RowResult]" = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
