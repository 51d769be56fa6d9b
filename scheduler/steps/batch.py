"""What a step works on, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from cdlm.model.row import RowResult, RowWork
from cdlm.scheduler.messages import BlockOutput
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.faults import Fault

# What a step did for a request.
Done = tuple[RowWork, RowResult]


@dataclass(slots=True)
class Batch:
    """What one step works on.

    Attributes:
        rows: the requests that take part, each with a row and with pages up to the end of its block.
        staged: the request whose known tokens are to be advanced by some pieces beside them, if there is one.
        admitted: requests that take part, or are staged, for the first time.
        faults: requests whose admission or growth has raised; they are to be ended.
        preemptions: how many requests had to go for want of pages.
        recomputed: positions of ``rows`` whose keys were dropped by a preemption and are computed again.
        resuming: a preempted request waits for pages: what becomes free is for it.
    """

    rows: list[Sequence] = field(default_factory=list)
    staged: Sequence | None = None
    admitted: list[Sequence] = field(default_factory=list)
    faults: list[tuple[Sequence, Fault]] = field(default_factory=list)
    preemptions: int = 0
    recomputed: int = 0
    resuming: bool = False


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to.

    Attributes:
        rows: in the order of the batch's.
        staged: how many tokens' work the staged request's pieces were, or why it ends.
        scored: ends of scoring requests.
        score_rows: scoring requests that took part.
        tokens: of all forwards together.
        seconds: that they took.
        border: reads the state behind the known tokens of a row, [hidden].
    """

    rows: list[tuple[Sequence, Done | Fault]]
    staged: int | Fault
    scored: list[BlockOutput]
    score_rows: int
    tokens: int
    seconds: float
    border: Callable[[int], Tensor]

    @property
    def done(self) -> list[Done]:
        """Works and results of the rows that went well."""
        return [done for _, done in self.rows if not isinstance(done, Fault)]
