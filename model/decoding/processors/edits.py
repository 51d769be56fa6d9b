"""Edits of the logits: penalties, biases and bans, applied before anything is decided on them (docs/sampling.md)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.rules import BAN
from cdlm.model.row import LogitEdits, RowWork

# Edited in parts of the vocabulary, so that what is held in fp32 stays small.
_VOCABULARY_PART = 16_384


@dataclass(slots=True)
class _RowState:
    """What one row's edits rest on (V vocabulary size), on the device.

    Attributes:
        bias: [V] fp32, -inf at banned tokens.
        stops: [V] bool, tokens that ``min_tokens`` forbids.
        in_prompt: [V] bool.
        counts: [V] fp32, how often each token stands in the finished blocks.
        counted: generated tokens that ``counts`` holds.
    """

    edits: LogitEdits
    prompt_length: int
    bias: Tensor
    stops: Tensor
    in_prompt: Tensor
    counts: Tensor
    counted: int = 0


class LogitEditor:
    """Keeps the state of the rows that ask for edits, and edits their logits; other rows cost nothing."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self._rows: dict[int, _RowState] = {}

    @property
    def rows(self) -> set[int]:
        """The rows whose logits are edited."""
        return set(self._rows)

    def open_row(self, row: int, edits: LogitEdits | None, prompt_ids: list[int], stop_ids: list[int]) -> None:
        """Gives a row to a request, with nothing generated so far; ``None`` for one without edits."""
        self.release(row)
        if edits is None:
            return
        bias = torch.zeros(self.vocab_size, device=self.device)
        if edits.bias:
            ids, values = zip(*edits.bias, strict=True)
            bias[self._ids(ids)] = torch.tensor([float("-inf") if value <= BAN else value for value in values]).to(bias)
        self._rows[row] = _RowState(
            edits, len(prompt_ids), bias, self._set(stop_ids), self._set(prompt_ids), torch.zeros_like(bias)
        )

    def open_block(self, row: int, generated: list[int]) -> None:
        """Counts what has been finished since the row's last block; ``generated`` is all of it, from the first on."""
        state = self._rows.get(row)
        if state is not None and len(generated) > state.counted:
            fresh = self._ids(generated[state.counted :])
            state.counts.index_add_(0, fresh, torch.ones(len(fresh), device=self.device))
            state.counted = len(generated)

    def check(self, row: int, generated: list[int]) -> None:
        """Asserts that a row has counted ``generated``, all tokens of its finished blocks, if its logits are edited."""
        state = self._rows.get(row)
        if state is not None:
            counts = torch.bincount(self._ids(generated), minlength=self.vocab_size)
            assert state.counted == len(generated), f"row {row} has counted {state.counted} of {len(generated)} tokens"
            assert bool((state.counts == counts).all()), f"row {row} has counted other tokens than it generated"

    def release(self, row: int) -> None:
        """Forgets a row."""
        self._rows.pop(row, None)

    def apply(self, works: list[RowWork], counts: list[int], chosen: Tensor, logits: Tensor, canvas: Canvas) -> None:
        """Edits the logits of rows that ask for it, in place.

        Args:
            works: the rows of the step.
            counts: how many of the predicted positions belong to each of them.
            chosen: [positions] int64, where each lies in [rows, block], flattened.
            logits: [positions, vocab].
            canvas: holds what the current blocks have finalized so far.
        """
        asking = [index for index, work in enumerate(works) if work.edited]
        if not asking:
            return
        states = [self._rows[works[index].row] for index in asking]
        mine = np.zeros(len(works), dtype=bool)
        mine[asking] = True
        at = torch.from_numpy(np.flatnonzero(np.repeat(mine, counts))).to(self.device)
        # [positions of asking rows]: which of the asking rows each belongs to.
        owner = torch.from_numpy(np.repeat(np.arange(len(asking)), np.array(counts)[asking])).to(self.device)
        written = self._written(states, [works[index].row for index in asking], canvas)

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.device)[:, None]

        present = written > 0
        added = torch.stack([state.bias for state in states])
        added = added - column([state.edits.frequency for state in states]) * written
        added -= column([state.edits.presence for state in states]) * present
        seen = present | torch.stack([state.in_prompt for state in states])
        divisor = torch.where(seen, column([state.edits.repetition for state in states]), 1.0)
        banned = self._early([works[index] for index in asking], states, owner, chosen[at] % canvas.block_length)
        stops = torch.stack([state.stops for state in states]) if banned is not None else None
        for start in range(0, logits.shape[-1], _VOCABULARY_PART):
            part = slice(start, start + _VOCABULARY_PART)
            values = logits[:, part].index_select(0, at).float()
            by = divisor[:, part].index_select(0, owner)
            values = torch.where(values > 0, values / by, values * by)
            values += added[:, part].index_select(0, owner)
            if banned is not None and stops is not None:
                values.masked_fill_(banned[:, None] & stops[:, part].index_select(0, owner), float("-inf"))
            logits[:, part].index_copy_(0, at, values.to(logits.dtype))

    def _written(self, states: list[_RowState], rows: list[int], canvas: Canvas) -> Tensor:
        """[rows, vocab] fp32: how often each token was generated, in finished blocks and in the current one."""
        where = torch.tensor(rows, device=self.device)
        tokens = canvas.tokens.index_select(0, where)
        here = ~(canvas.masked | canvas.known).index_select(0, where)
        # Where nothing was generated there is no token to count, and a mask token may lie past the vocabulary.
        tokens = tokens.masked_fill(~here, 0)
        return torch.stack([state.counts for state in states]).scatter_add_(1, tokens, here.float())

    def _early(self, works: list[RowWork], states: list[_RowState], owner: Tensor, offsets: Tensor) -> Tensor | None:
        """[positions] bool: those that come before their row's ``min_tokens``; ``None`` when no row has any."""
        until = [
            state.prompt_length + state.edits.min_tokens - work.block_start
            for work, state in zip(works, states, strict=True)
        ]
        if max(until) <= 0:
            return None
        return offsets < torch.tensor(until, device=self.device)[owner]

    def _ids(self, ids: "list[int] | tuple[int, ...]") -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def _set(self, ids: list[int]) -> Tensor:
        """[vocab] bool: true at ``ids``; ids outside the vocabulary are no tokens."""
        found = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        found[self._ids([token for token in ids if 0 <= token < self.vocab_size])] = True
        return found
