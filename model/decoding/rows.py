"""The rows of the canvas: who has one, and what is kept for it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.config import Manifest
from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.processors.constrained import ConstrainedRows
from cdlm.model.decoding.processors.edits import LogitEditor
from cdlm.model.decoding.rules import FinalizationRule
from cdlm.model.row import LogitEdits


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How a request's blocks are decoded, from its first block to its last.

    Attributes:
        rule: which positions a step finalizes.
        max_steps: most denoise steps per block.
        stop_ids: tokens that end the answer.
        prompt_ids: the prompt.
        edits: how its logits are edited, if they are.
        grammar: what the answer must follow, if anything.
        border: [hidden], the state behind the known tokens, where no forward will bring it.
    """

    rule: FinalizationRule
    max_steps: int
    stop_ids: list[int]
    prompt_ids: list[int]
    edits: LogitEdits | None = None
    grammar: CompiledGrammar | None = None
    border: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BlockStart:
    """What is known of a block before its first step.

    Attributes:
        given: prompt tokens at its beginning.
        generated: all tokens of finished blocks.
        left: positions from its beginning to the last token that the answer may have, given ones included.
        pinned: known tokens behind the end of the answer, by their offset.
    """

    given: list[int]
    generated: list[int]
    left: int
    pinned: Mapping[int, int]


class Rows:
    """Owns what is kept for rows: the canvas, and the state of whatever edits or binds their tokens.

    ``size`` rows at most are open at a time; whoever opens one closes it.
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
        self.editor = LogitEditor(vocab_size, device)
        self.constrained = ConstrainedRows(vocab_size, manifest.mask_token_id, device)

    def open(self, row: int, settings: RowSettings) -> None:
        """Gives a row to a request."""
        self.canvas.open_row(
            row,
            rule=settings.rule,
            max_steps=settings.max_steps,
            stop_ids=settings.stop_ids,
            border=settings.border,
        )
        self.editor.open_row(row, settings.edits, settings.prompt_ids, settings.stop_ids)
        self.constrained.open_row(row, settings.grammar, settings.stop_ids)

    def open_block(self, row: int, start: BlockStart) -> None:
        """Begins a block of an open row; one that was begun before is dropped."""
        self.canvas.open_block(row, start.given, start.pinned)
        self.editor.open_block(row, start.generated)
        self.constrained.open_block(row, start.generated, start.left)

    def close(self, row: int) -> None:
        """Forgets what was kept for a row; nothing happens if it was not open."""
        for kept in (self.editor, self.constrained):
            kept.release(row)

    def check(self, open_rows: Collection[int], blocks: Mapping[int, BlockStart]) -> None:
        """Asserts that host and device agree about rows, and that nothing is kept for any but ``open_rows``.

        Args:
            open_rows: those that a request has.
            blocks: how the current block of each row that has one began.
        """
        self.canvas.check()
        kept = self.editor.rows | self.constrained.rows
        assert kept <= set(open_rows), f"rows {sorted(kept - set(open_rows))} are kept for nobody"
        for row, start in blocks.items():
            first = self.canvas.first[row]
            assert first == len(start.given), f"row {row} is open for another block"
            assert self.canvas.tokens[row].tolist()[:first] == start.given, f"row {row} holds another prompt"
            self.editor.check(row, start.generated)
            self.constrained.check(row, start.generated, self.canvas)
