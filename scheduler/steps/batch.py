"""The input and the result of a step."""

from dataclasses import dataclass, field

from cdlm.model.row import Draft, RowResult, RowWork
from cdlm.scheduler.kv.cache import Copy
from cdlm.scheduler.messages import BlockOutput
from cdlm.scheduler.sequence import Sequence
from cdlm.scheduler.steps.faults import Fault

# A row's work and result.
Done = tuple[RowWork, RowResult]


@dataclass(slots=True)
class Batch:
    """The work of one step.

    Attributes:
        rows: the requests that take part, each with a row and pages up to the end of its block.
        drafts: what requests of ``rows`` verify and draft.
        staged: the request that is prefilled in pieces beside them, if any.
        admitted: requests that take part or are staged for the first time.
        begun: ids of all requests in their first step, scoring requests included.
        copies: pages to copy before the forwards, in this order, with their request.
        faults: requests whose admission or page allocation raised; the engine ends them.
        ended: outputs of requests that failed at admission.
        preemptions: number of requests that were preempted.
        recomputed: number of positions of ``rows`` that a preemption dropped and that this step computes again.
        resuming: whether a preempted request waits for pages, which is first to get free ones.
    """

    rows: list[Sequence] = field(default_factory=list)
    drafts: dict[Sequence, Draft] = field(default_factory=dict)
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
        """Removes a request whose work raised from the step."""
        self.faults.append((sequence, fault))
        self.rows = [row for row in self.rows if row is not sequence]
        self.staged = None if self.staged is sequence else self.staged


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of a step.

    Attributes:
        rows: results in the order of ``Batch.rows``.
        staged: the work of the staged request's pieces, in tokens, or why it failed.
        scored: outputs of scoring requests that ended.
        score_rows: number of scoring requests that took part.
        score_prompt_tokens: tokens of scoring requests in their first step.
        score_cached_tokens: those of them that came from the prefix cache.
        tokens: number of tokens in all forwards.
        seconds: duration of all forwards.
        halved: how often the rows were run in halves because the device had no memory left.
    """

    rows: list[tuple[Sequence, Done | Fault]]
    staged: int | Fault
    scored: list[BlockOutput]
    score_rows: int
    score_prompt_tokens: int
    score_cached_tokens: int
    tokens: int
    seconds: float
    halved: int

    @property
    def done(self) -> list[Done]:
        """Works and results of the rows that did not fail."""
        return [done for _, done in self.rows if not isinstance(done, Fault)]
