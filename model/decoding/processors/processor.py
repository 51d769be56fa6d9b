"""The base class of logits processors."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowResult, RowWork
from cdlm.model.uploads import Place

State = TypeVar("State")


@dataclass(slots=True)
class Step:
    """The data of a step that processors read and change.

    Attributes:
        works: the step's rows.
        counts: predicted positions per row; the positions of a row are consecutive.
        chosen: [positions] int64, index of each predicted position in [rows, block], flattened.
        logits: [positions, vocab].
        unprompted: [positions of guided rows, vocab], the logits without prompt; set if any row is guided.
        token: [positions] int64, the predicted tokens; set once the logits are final.
        now: [rows, block] bool, positions that get a token; set once the finalization rules have run, and again, with
            those whose token is replaced, before ``report``.
        failed: index in ``works`` -> why that row cannot continue; none of its positions is finalized.
    """

    works: list[RowWork]
    counts: list[int]
    chosen: Tensor
    logits: Tensor = field(init=False)
    unprompted: Tensor = field(init=False)
    token: Tensor = field(init=False)
    now: Tensor = field(init=False)
    failed: dict[int, str] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, RowWork, slice]]:
        """Yields each row's index, work, and slice of the predicted positions."""
        end = 0
        for index, (work, count) in enumerate(zip(self.works, self.counts, strict=True)):
            start, end = end, end + count
            yield index, work, slice(start, end)


def positions(wanting: list[bool], counts: list[int]) -> NDArray[np.int64]:
    """Indices of the predicted positions of rows for which ``wanting`` is true; ``counts`` are those per row."""
    return np.flatnonzero(np.repeat(wanting, counts))


class Processor(ABC, Generic[State]):
    """A logits processor with state per row; rows without state cost nothing. ``Rows`` calls all processors in order.

    ``states`` maps a row to its state, from ``open_row`` to ``release``. Of the processors that some row wants, a step
    calls ``prepare`` before its upload is sent, then ``edit`` of all, then, after the finalization rules, ``decide`` of
    all, then ``report`` of all. After an exception the step may run again with the same rows or some of them: all four
    must therefore be repeatable.

    Args:
        canvas: the rows' current blocks; read-only for processors.
        vocab_size: number of logits per position.
    """

    def __init__(self, canvas: Canvas, vocab_size: int) -> None:
        self.canvas, self.vocab_size = canvas, vocab_size
        self.device = canvas.tokens.device
        self.states: dict[int, State] = {}

    @abstractmethod
    def state(self, settings: RowSettings) -> State | None:
        """The initial state for a row with these settings; ``None`` if the row does not need this processor."""

    def open_row(self, row: int, settings: RowSettings) -> None:
        """Assigns a row to a request."""
        self.release(row)
        state = self.state(settings)
        if state is not None:
            self.states[row] = state

    def open_block(self, row: int, start: BlockStart) -> None:
        """Begins a block of an open row, or restarts it."""

    def release(self, row: int) -> None:
        """Drops the state of a row."""
        self.states.pop(row, None)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that a row's state agrees with the canvas and with ``start``, the start of its current block."""

    def wanted(self, works: list[RowWork]) -> bool:
        """Whether any row of the step needs this processor."""
        return bool(self.states) and any(work.row in self.states for work in works)

    def prepare(self, works: list[RowWork], counts: list[int], place: Place) -> None:
        """Places what the step needs on the device; ``counts`` are the predicted positions per row."""

    def edit(self, step: Step) -> None:
        """Changes the step's logits, or copies parts of them for later."""

    def decide(self, step: Step) -> None:
        """Changes which positions are finalized, and their tokens."""

    def report(self, step: Step, results: list[RowResult]) -> None:
        """Adds to the results of the step's rows."""
