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
    """Whatever can take a load."""

    def __call__(self, load: Load) -> Sample:
        """Runs it once."""
        ...


@dataclass(frozen=True, slots=True)
class Cell:
    """Which load a comparison uses; ``None`` where it brings its own."""

    batch: int | None
    prompt: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared.

    Attributes:
        name: stable, the key of results.
        says: one sentence on what was run and which ratio is formed.
        prepare: makes and warms up the contenders.
        ratios: of a round; the name is what a bar refers to.
        batches, prompts: the sizes it is measured at; empty where it brings its own.
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
        """Every load of the comparison under these settings."""
        batches: Sequence[int | None] = (settings.batches or self.batches) if self.batches else (None,)
        prompts: Sequence[int | None] = (settings.prompts or self.prompts) if self.prompts else (None,)
        for prompt in prompts:
            yield from (Cell(batch, prompt) for batch in batches)

    def key(self, shape: str, dtype: str, cell: Cell) -> str:
        """Names one measurement in the result."""
        sizes = {"batch": cell.batch, "prompt": cell.prompt}
        return "/".join([self.name, shape, dtype, *(f"{name}-{size}" for name, size in sizes.items() if size)])

    def measure(self, bench: Workbench, cell: Cell) -> dict[str, Any]:
        """Rounds, ratios and summary: A B A B ..., since machines change their speed while they are measured."""
        contenders = self.prepare(bench, cell)
        rounds = [{name: run() for name, run in contenders.items()} for _ in range(bench.settings.repetitions)]
        ratios = {name: spread([ratio(one) for one in rounds]) for name, ratio in self.ratios.items()}
        return {"ratios": ratios, "summary": self.summary(rounds), "rounds": rounds}


def spread(values: list[float]) -> dict[str, Any]:
    """Smallest, middle and largest of paired ratios, and all of them."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "values": values}


def warmed(contender: Contender, load: Load) -> Run:
    """The contender with its load, after a run of one block that is not counted."""
    contender(load.one_block())
    return lambda: contender(load)


def quotient(over: str, under: str, figure: str) -> Ratio:
    """``figure`` of one contender over that of another."""
    return lambda one: one[over][figure] / one[under][figure]
