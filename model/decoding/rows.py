"""The rows of a batch: the canvas and the processors' state."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from cdlm.model.config import Manifest
from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.processors.constrained import Constrained
from cdlm.model.decoding.processors.edits import Edits
from cdlm.model.decoding.processors.guidance import Guide
from cdlm.model.decoding.processors.logprobs import Logprobs
from cdlm.model.decoding.processors.processor import Processor
from cdlm.model.decoding.processors.words import Words
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork

PROCESSORS: tuple[type[Processor[Any]], ...] = (Guide, Logprobs, Constrained, Edits, Words)
"""All logits processors, in the order in which a step calls them."""


class Rows:
    """Owns the state of all rows: the canvas and the processors.

    At most ``size`` rows are open at a time; the caller of ``open`` calls ``close``.

    Attributes:
        starts: row -> start of its current block.
    """

    def __init__(
        self,
        size: int,
        manifest: Manifest,
        *,
        hidden_size: int,
        vocab_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.size = size
        self.canvas = Canvas(size, manifest, hidden_size, device, dtype)
        self.processors = [kind(self.canvas, vocab_size) for kind in PROCESSORS]
        self.starts: dict[int, BlockStart] = {}

    def open(self, row: int, settings: RowSettings) -> None:
        """Assigns a row to a request."""
        self.canvas.open_row(row, settings)
        for processor in self.processors:
            processor.open_row(row, settings)

    def open_block(self, row: int, start: BlockStart) -> None:
        """Begins a block of an open row, and drops its unfinished block if there is one."""
        self.starts[row] = start
        self.canvas.open_block(row, start.given, start.pinned)
        for processor in self.processors:
            processor.open_block(row, start)

    def close(self, row: int) -> None:
        """Drops the state of a row; does nothing if it is not open."""
        self.starts.pop(row, None)
        for processor in self.processors:
            processor.release(row)

    def wanted(self, works: list[RowWork]) -> list[Processor[Any]]:
        """The processors that some row of the step needs, in order."""
        return [processor for processor in self.processors if processor.wanted(works)]

    def check(self, open_rows: Collection[int], blocks: Mapping[int, BlockStart]) -> None:
        """Asserts that host and device agree, and that processors have state for no other rows than ``open_rows``.

        Args:
            open_rows: the rows that belong to a request.
            blocks: row -> start of its current block.
        """
        self.canvas.check()
        kept = {row for processor in self.processors for row in processor.states}
        assert kept <= set(open_rows), f"rows {sorted(kept - set(open_rows))} are kept for nobody"
        for row, start in blocks.items():
            first = self.canvas.first[row]
            assert first == len(start.given), f"row {row} is open for another block"
            assert self.canvas.tokens[row].tolist()[:first] == start.given, f"row {row} holds another prompt"
            for processor in self.processors:
                processor.check(row, start)
