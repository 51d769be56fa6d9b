"""Edits logits before tokens are chosen: penalties, biases and bans (docs/sampling.md)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdlm.model.decoding.params import DecodingParams
from cdlm.model.decoding.processors.processor import Processor, Step, positions
from cdlm.model.decoding.rules import BAN
from cdlm.model.decoding.settings import BlockStart, RowSettings
from cdlm.model.row import RowWork
from cdlm.model.uploads import Place

# Tokens edited at once, so that the fp32 copy stays small.
_VOCABULARY_PART = 16_384


@dataclass(slots=True)
class _RowState:
    """Data for one row's edits (V vocabulary size); tensors are on the device.

    Attributes:
        bias: [V] fp32, -inf at banned tokens.
        stops: [V] bool, tokens that ``min_tokens`` forbids.
        in_prompt: [V] bool, tokens of the prompt.
        counts: [V] fp32, how often each token occurs in the finished blocks.
        counted: how many generated tokens ``counts`` covers.
    """

    params: DecodingParams
    prompt_length: int
    bias: Tensor
    stops: Tensor
    in_prompt: Tensor
    counts: Tensor
    counted: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """The R edited rows of a step; tensors are on the device.

    Attributes:
        states: of the rows.
        at: [P] int64, the indices of their positions among the predicted ones.
        owner: [P] int64, which of the R rows each belongs to.
        rows: [R] int64, their rows of the canvas.
        frequency, presence, repetition: [R, 1] fp32, the penalties.
        until: [R] int64, the offset in the block from which stop tokens may be written; ``None`` if they all may.
    """

    states: list[_RowState]
    at: Tensor
    owner: Tensor
    rows: Tensor
    frequency: Tensor
    presence: Tensor
    repetition: Tensor
    until: Tensor | None


class Edits(Processor[_RowState]):
    """Edits the logits of rows with penalties, biases or bans."""

    _batch: _Batch

    def state(self, settings: RowSettings) -> _RowState | None:
        """The row's edits before its first token; ``None`` if it has none."""
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
        single = [word[0] for word in params.bad_words if len(word) == 1 and not isinstance(word, str)]
        bias[self._ids(single)] = float("-inf")
        in_prompt, stops = self._set(prompt_ids), self._set(settings.stop_ids)
        return _RowState(params, len(prompt_ids), bias, stops, in_prompt, torch.zeros_like(bias))

    def open_block(self, row: int, start: BlockStart) -> None:
        """Counts the tokens of blocks finished since the row's last block."""
        state, generated = self.states.get(row), start.generated
        if state is not None and len(generated) > state.counted:
            fresh = self._ids(generated[state.counted :])
            state.counts.index_add_(0, fresh, torch.ones(len(fresh), device=self.device))
            state.counted = len(generated)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that an edited row has counted all tokens of its finished blocks."""
        state, generated = self.states.get(row), start.generated
        if state is not None:
            counts = torch.bincount(self._ids(generated), minlength=self.vocab_size)
            assert state.counted == len(generated), f"row {row} has counted {state.counted} of {len(generated)} tokens"
            assert bool((state.counts == counts).all()), f"row {row} has counted other tokens than it generated"

    def prepare(self, works: list[RowWork], counts: list[int], place: Place) -> None:
        """Places the positions of edited rows, and their parameters."""
        edited = [work.row in self.states for work in works]
        mine = [work for work, asks in zip(works, edited, strict=True) if asks]
        states = [self.states[work.row] for work in mine]
        per_row = np.array(counts)[np.array(edited)]

        def column(values: list[float]) -> Tensor:
            return place(np.array(values, dtype=np.float32)[:, None])

        until = [
            state.prompt_length + state.params.min_tokens - work.block_start
            for work, state in zip(mine, states, strict=True)
        ]
        self._batch = _Batch(
            states,
            at=place(positions(edited, counts)),
            owner=place(np.repeat(np.arange(len(mine)), per_row)),
            rows=place(np.array([work.row for work in mine])),
            frequency=column([state.params.frequency_penalty for state in states]),
            presence=column([state.params.presence_penalty for state in states]),
            repetition=column([state.params.repetition_penalty for state in states]),
            until=place(np.array(until)) if max(until) > 0 else None,
        )

    def edit(self, step: Step) -> None:
        """Edits the logits in place."""
        logits, batch, states = step.logits, self._batch, self._batch.states
        written = self._written(batch)
        present = written > 0
        added = torch.stack([state.bias for state in states])
        added = added - batch.frequency * written
        added -= batch.presence * present
        seen = present | torch.stack([state.in_prompt for state in states])
        divisor = torch.where(seen, batch.repetition, 1.0)
        replacing = any(self.canvas.replaces[work.row] for work in step.works if work.row in self.states)
        again = self._again(step, written) if replacing else None
        banned = stops = None
        if batch.until is not None:
            offsets = step.chosen.index_select(0, batch.at) % self.canvas.block_length
            banned = offsets < batch.until.index_select(0, batch.owner)
            stops = torch.stack([state.stops for state in states])
        for start in range(0, logits.shape[-1], _VOCABULARY_PART):
            part = slice(start, start + _VOCABULARY_PART)
            values = logits[:, part].index_select(0, batch.at).float()
            by = divisor[:, part].index_select(0, batch.owner)
            values = torch.where(values > 0, values / by, values * by)
            values += added[:, part].index_select(0, batch.owner)
            if banned is not None and stops is not None:
                values.masked_fill_(banned[:, None] & stops[:, part].index_select(0, batch.owner), float("-inf"))
            logits[:, part].index_copy_(0, batch.at, values.to(logits.dtype))
        if again is not None:
            own, decided, edited = again
            logits[batch.at, own] = torch.where(decided, edited.to(logits.dtype), logits[batch.at, own])

    def _again(self, step: Step, written: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The edited logits of the tokens that decided positions have: a token is not penalized for itself.

        ``written`` [rows, vocab] counts all tokens. Returns the token of each edited position, 0 where it is masked;
        whether it is decided; and the edited logit of the token, all [P].
        """
        canvas, batch = self.canvas, self._batch
        offsets = step.chosen.index_select(0, batch.at) % canvas.block_length
        rows = batch.rows.index_select(0, batch.owner)
        decided = ~canvas.masked[rows, offsets]
        own = canvas.tokens[rows, offsets].masked_fill(~decided, 0)
        others = written[batch.owner, own] - 1
        in_prompt = torch.stack([state.in_prompt for state in batch.states])[batch.owner, own]
        bias = torch.stack([state.bias for state in batch.states])[batch.owner, own]
        frequency, presence, repetition = (
            column[:, 0].index_select(0, batch.owner) for column in (batch.frequency, batch.presence, batch.repetition)
        )
        divisor = torch.where((others > 0) | in_prompt, repetition, 1.0)
        values = step.logits[batch.at, own].float()
        values = torch.where(values > 0, values / divisor, values * divisor)
        return own, decided, values + (bias - frequency * others - presence * (others > 0))

    def _written(self, batch: "_Batch") -> Tensor:
        """[rows, vocab] fp32: how often each token was generated, in finished blocks and in the current one."""
        canvas = self.canvas
        tokens = canvas.tokens.index_select(0, batch.rows)
        here = ~(canvas.masked | canvas.known).index_select(0, batch.rows)
        # A mask token may lie past the vocabulary; masked positions are not counted.
        tokens = tokens.masked_fill(~here, 0)
        return torch.stack([state.counts for state in batch.states]).scatter_add_(1, tokens, here.float())

    def _ids(self, ids: "list[int] | tuple[int, ...]") -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device)

    def _set(self, ids: list[int]) -> Tensor:
        """[vocab] bool: true at ``ids``; ignores ids outside the vocabulary."""
        found = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
        found[self._ids([token for token in ids if 0 <= token < self.vocab_size])] = True
        return found
