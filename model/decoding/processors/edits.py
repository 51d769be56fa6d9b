"""Edits of the logits: penalties, biases and bans, applied before anything is decided on them (docs/sampling.md)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.rules import BAN
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork

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

    params: DecodingParams
    prompt_length: int
    bias: Tensor
    stops: Tensor
    in_prompt: Tensor
    counts: Tensor
    counted: int = 0


class Edits(Processor[_RowState]):
    """Edits the logits of the rows that ask for it."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The edits, with nothing generated so far."""
        params, prompt_ids = settings.params, settings.prompt_ids
        if not params.edits_logits:
            return None
        bias = torch.zeros(self.vocab_size, device=self.device)
        if params.allowed_token_ids:
            bias.masked_fill_(~self._set(params.allowed_token_ids), float("-inf"))
        if params.logit_bias:
            ids, values = zip(*params.logit_bias.items(), strict=True)
            added = torch.tensor([float("-inf") if value <= BAN else value for value in values])
            bias[self._ids(ids)] += added.to(bias)
        in_prompt, stops = self._set(prompt_ids), self._set(settings.stop_ids)
        return _RowState(params, len(prompt_ids), bias, stops, in_prompt, torch.zeros_like(bias))

    def open_block(self, row: int, start: BlockStart) -> None:
        """Counts what has been finished since the row's last block."""
        state, generated = self.states.get(row), start.generated
        if state is not None and len(generated) > state.counted:
            fresh = self._ids(generated[state.counted :])
            state.counts.index_add_(0, fresh, torch.ones(len(fresh), device=self.device))
            state.counted = len(generated)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that a row has counted all tokens of its finished blocks, if its logits are edited."""
        state, generated = self.states.get(row), start.generated
        if state is not None:
            counts = torch.bincount(self._ids(generated), minlength=self.vocab_size)
            assert state.counted == len(generated), f"row {row} has counted {state.counted} of {len(generated)} tokens"
            assert bool((state.counts == counts).all()), f"row {row} has counted other tokens than it generated"

    def edit(self, step: Step) -> None:
        """Edits the logits in place."""
        works, logits = step.works, step.logits
        mine = [work.row in self.states for work in works]
        asking = [index for index, edited in enumerate(mine) if edited]
        at = step.positions(mine)
        states = [self.states[works[index].row] for index in asking]
        # [positions of asking rows]: which of the asking rows each belongs to.
        owner = torch.from_numpy(np.repeat(np.arange(len(asking)), np.array(step.counts)[asking])).to(self.device)
        written = self._written(states, [works[index].row for index in asking])

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.device)[:, None]

        present = written > 0
        added = torch.stack([state.bias for state in states])
        added = added - column([state.params.frequency_penalty for state in states]) * written
        added -= column([state.params.presence_penalty for state in states]) * present
        seen = present | torch.stack([state.in_prompt for state in states])
        divisor = torch.where(seen, column([state.params.repetition_penalty for state in states]), 1.0)
        offsets = step.chosen[at] % self.canvas.block_length
        banned = self._early([works[index] for index in asking], states, owner, offsets)
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

    def _written(self, states: list[_RowState], rows: list[int]) -> Tensor:
        """[rows, vocab] fp32: how often each token was generated, in finished blocks and in the current one."""
        where = torch.tensor(rows, device=self.device)
        canvas = self.canvas
        tokens = canvas.tokens.index_select(0, where)
        here = ~(canvas.masked | canvas.known).index_select(0, where)
        # Where nothing was generated there is no token to count, and a mask token may lie past the vocabulary.
        tokens = tokens.masked_fill(~here, 0)
        return torch.stack([state.counts for state in states]).scatter_add_(1, tokens, here.float())

    def _early(self, works: list[RowWork], states: list[_RowState], owner: Tensor, offsets: Tensor) -> Tensor | None:
        """[positions] bool: those that come before their row's ``min_tokens``; ``None`` when no row has any."""
        until = [
            state.prompt_length + state.params.min_tokens - work.block_start
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
