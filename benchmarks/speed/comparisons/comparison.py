"""A comparison: contenders that run in turn, and the ratios of their figures round by round."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.speed.contenders.load import Load, Round, Sample
from benchmarks.speed.contenders.workbench import Workbench
from benchmarks.speed.settings import Settings

Run = Callable[[], Sample]  # A repetition.
Ratio = Callable[[Round], float]


class Contender(Protocol):
    """A decoder or server that runs a load."""

    def __call__(self, load: Load) -> Sample:
        """Runs the load once."""
        ...


@dataclass(frozen=True, slots=True)
class Cell:
    """The sizes of a comparison's load; ``None`` if the comparison has its own."""

    batch: int | None
    prompt: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of contenders.

    Attributes:
        name: stable, the key of results.
        says: one sentence that defines the load and the ratio.
        prepare: creates and warms up the contenders.
        ratios: name -> ratio of a round; bars refer to the names.
        batches, prompts: its sizes; empty if it has its own loads.
        summary: further figures from all rounds.
    """

    name: str
    says: str
    prepare: Callable[[Workbench, Cell], dict[str, Run]]
    ratios: dict[str, Ratio]
    batches: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    summary: Callable[[list[Round]], dict[str, Any]] = field(default=lambda _rounds: {})

    def cells(self, settings: Settings) -> Iterator[Cell]:
        """Yields the loads of the comparison under these settings."""
        batches: Sequence[int | None] = (settings.batches or self.batches) if self.batches else (None,)
        prompts: Sequence[int | None] = (settings.prompts or self.prompts) if self.prompts else (None,)
        for prompt in prompts:
            yield from (Cell(batch, prompt) for batch in batches)

    def key(self, shape: str, dtype: str, cell: Cell) -> str:
        """The key of one measurement in the result."""
        sizes = {"batch": cell.batch, "prompt": cell.prompt}
        return "/".join([self.name, shape, dtype, *(f"{name}-{size}" for name, size in sizes.items() if size)])

    def measure(self, bench: Workbench, cell: Cell) -> dict[str, Any]:
        """Measures rounds, ratios and summary; contenders alternate (A B A B ...), since machines vary in speed."""
        contenders = self.prepare(bench, cell)
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(bench.settings.repetitions)]
        ratios = {name: spread([ratio(one) for one in rounds]) for name, ratio in self.ratios.items()}
        return {"ratios": ratios, "summary": self.summary(rounds), "rounds": rounds}


def spread(values: list[float]) -> dict[str, Any]:
    """Minimum, median and maximum of paired ratios, and all values."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "values": values}


def warmed(contender: Contender, load: Load) -> Run:
    """Warms the contender up with one block; returns a function that runs the load."""
    contender(load.one_block())
    return lambda: contender(load)


def quotient(over: str, under: str, figure: str) -> Ratio:
    """The ratio of a figure of two contenders."""
    return lambda one: one[over][figure] / one[under][figure]
