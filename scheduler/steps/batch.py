"""What a step works on, and what came of it."""

from dataclasses import dataclass, field

from cdlm.model.row import RowResult, RowWork
from cdlm.scheduler.kv.cache import Copy
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
        begun: the ids of all that are worked on for the first time, scoring requests too.
        copies: pages to copy before anything is computed, in this order, and for whom.
        faults: requests whose admission or growth has raised; they are to be ended.
        ended: the ends of those that got no further than their admission.
        preemptions: how many requests had to go for want of pages.
        recomputed: positions of ``rows`` whose keys were dropped by a preemption and are computed again.
        resuming: a preempted request waits for pages: what becomes free is for it.
    """

    rows: list[Sequence] = field(default_factory=list)
    staged: Sequence | None = None
    admitted: list[Sequence] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    copies: list[tuple[Sequence, Copy]] = field(default_factory=list)
    faults: list[tuple[Sequence, Fault]] = field(default_factory=list)
    ended: list[BlockOutput] = field(default_factory=list)
    preemptions: int = 0
    recomputed: int = 0
    resuming: bool = False

    def drop(self, sequence: Sequence, fault: Fault) -> None:
        """A request that takes no part, because work for it has raised."""
        self.faults.append((sequence, fault))
        self.rows = [row for row in self.rows if row is not sequence]
        self.staged = None if self.staged is sequence else self.staged


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
    """

    rows: list[tuple[Sequence, Done | Fault]]
    staged: int | Fault
    scored: list[BlockOutput]
    score_rows: int
    tokens: int
    seconds: float

    @property
    def done(self) -> list[Done]:
        """Works and results of the rows that went well."""
        return [done for _, done in self.rows if not isinstance(done, Fault)]
