"""What a processor is: a say in the logits and decisions of the rows that want it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowResult, RowWork

State = TypeVar("State")


@dataclass(slots=True)
class Step:
    """A step as processors see it.

    Attributes:
        works: its rows.
        counts: how many of the predicted positions belong to each of them; those of a row lie side by side.
        chosen: [positions] int64, where each lies in [rows, block], flattened.
        logits: [positions, vocab].
        unprompted: [positions of guided rows, vocab], the logits of the passes without a prompt; there if any row is
            guided.
        token: [positions] int64, what each would become; there once the logits are final.
        now: [rows, block] bool, what is finalized; there once the rows' rules have looked.
        failed: by index in ``works``, why a row cannot go on; nothing of it is finalized.
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
        """Index and work of each row, and which of the predicted positions are its own."""
        end = 0
        for index, (work, count) in enumerate(zip(self.works, self.counts, strict=True)):
            start, end = end, end + count
            yield index, work, slice(start, end)

    def positions(self, wanting: list[bool]) -> Tensor:
        """[their positions] int64: which of the predicted positions belong to ``wanting`` rows."""
        return torch.from_numpy(np.flatnonzero(np.repeat(wanting, self.counts))).to(self.chosen.device)


class Processor(Generic[State]):
    """One entry of the list that a step goes through (``Rows``); rows that do not want it cost nothing.

    ``states`` has what is kept for each row that wants it, from ``open_row`` to ``release``. In a step the processors
    whose rows take part are called in the order of the list: ``edit`` of all, then, once the rules have looked,
    ``decide`` of all, then ``report``. Where one raises, the step may be taken again with the same rows or some of
    them, so that only ``open_row`` and ``open_block`` may leave anything behind that a second time would disturb.

    Args:
        canvas: the rows' current blocks, which a processor only looks at.
        vocab_size: tokens that the model scores.
    """

    def __init__(self, canvas: Canvas, vocab_size: int) -> None:
        self.canvas, self.vocab_size = canvas, vocab_size
        self.device = canvas.tokens.device
        self.states: dict[int, State] = {}

    def state(self, settings: RowSettings) -> State | None:
        """What is kept for a row with these settings; ``None`` where it does not want this processor."""
        raise NotImplementedError

    def open_row(self, row: int, settings: RowSettings) -> None:
        """Gives a row to a request."""
        self.release(row)
        state = self.state(settings)
        if state is not None:
            self.states[row] = state

    def open_block(self, row: int, start: BlockStart) -> None:
        """Begins a block of an open row, or begins it again."""

    def release(self, row: int) -> None:
        """Forgets a row."""
        self.states.pop(row, None)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that what is kept for a row agrees with the canvas, and with how its current block began."""

    def wanted(self, works: list[RowWork]) -> bool:
        """Whether a row of the step wants it."""
        return bool(self.states) and any(work.row in self.states for work in works)

    def edit(self, step: Step) -> None:
        """Changes the logits before anything is decided on them, or keeps of them what it needs later."""

    def decide(self, step: Step) -> None:
        """Changes which positions are finalized, and to which tokens."""

    def report(self, step: Step, results: list[RowResult]) -> None:
        """Adds to the results of the step's rows."""
