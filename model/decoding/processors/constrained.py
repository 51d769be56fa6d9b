"""Finalizes rows that follow a grammar: from left to right, each token admitted after those before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.logits.draws import Pick, pick
from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.settings import BlockStart, RowSettings


@dataclass(slots=True)
class _RowState:
    """The grammar state of a row.

    Attributes:
        matcher: follows the row's answer.
        edited: whether other processors edit its logits.
        left: positions from the block's beginning to the last token that the answer may have.
        before: tokens generated before the block.
        before_edits: [positions, vocab], its logits in the current step before edits.
    """

    matcher: AnswerMatcher
    edited: bool
    left: int = 0
    before: int = 0
    before_edits: Tensor | None = None

    def rewind(self, written: int) -> None:
        """Resets the matcher to ``written`` tokens of the block: a failed step may have advanced it."""
        tokens = self.matcher.tokens[: self.before + written]
        if self.matcher.ended or len(tokens) < len(self.matcher.tokens):
            self.matcher.restart(tokens)


class Constrained(Processor[_RowState]):
    """Tracks the grammar state of rows that follow a grammar, and finalizes their tokens."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The start of the row's grammar; ``None`` without a grammar."""
        if settings.grammar is None:
            return None
        mask = self.canvas.mask_token_id
        stops = [token for token in settings.stop_ids if 0 <= token < self.vocab_size and token != mask]
        return _RowState(AnswerMatcher(settings.grammar, stops), edited=settings.params.edits_logits)

    def open_block(self, row: int, start: BlockStart) -> None:
        """Sets the matcher to the beginning of the block."""
        state = self.states.get(row)
        if state is not None:
            state.left, state.before = start.left, len(start.generated)
            if state.matcher.tokens != start.generated:  # The row was preempted inside a block.
                state.matcher.restart(start.generated)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that a row's matcher has taken all finalized tokens, end tokens excluded.

        It may be ahead: a later processor may have deferred tokens.
        """
        state, canvas = self.states.get(row), self.canvas
        if state is not None:
            here = canvas.tokens[row, canvas.first[row] : canvas.block_length - canvas.left[row]].tolist()
            taken = start.generated + here
            if state.matcher.ended and len(taken) > len(state.matcher.tokens):
                del taken[-1]
            assert state.matcher.tokens[: len(taken)] == taken, f"row {row}"

    def edit(self, step: Step) -> None:
        """Copies the logits of rows that are edited too: edits may ban every token that the grammar admits."""
        for _, work, mine in step.rows():
            state = self.states.get(work.row)
            if state is not None and state.edited:
                state.before_edits = step.logits[mine].clone()

    def decide(self, step: Step) -> None:
        """Decides the finalized tokens of rows that follow a grammar; a ``GrammarError`` fails that row alone."""
        canvas = self.canvas
        for index, work, mine in step.rows():
            state = self.states.get(work.row)
            if state is None:
                continue
            first = canvas.block_length - canvas.left[work.row]
            end = first + mine.stop - mine.start
            state.rewind(first - canvas.first[work.row])
            walk = _Walk(
                state,
                first,
                step.token[mine].tolist(),
                step.now[index, first:end].tolist(),
                canvas.at_least(work.row),
                step.logits[mine],
                pick(work),
            )
            step.now[index] = False
            try:
                written = walk.run()
            except GrammarError as error:
                step.failed[index] = str(error)
                continue
            finally:
                state.before_edits = None
            step.now[index, first : first + len(written)] = True
            step.token[mine.start : mine.start + len(written)] = torch.tensor(written).to(step.token)


@dataclass(slots=True)
class _Walk:
    """One row's step, from its first masked position (offset ``first``) on.

    ``choices`` has the model's token at each predicted position, ``passes`` whether the row's rule finalizes it; at
    least ``at_least`` positions are finalized. ``logits`` is [positions, vocab].
    """

    state: _RowState
    first: int
    choices: list[int]
    passes: list[bool]
    at_least: int
    logits: Tensor
    pick: Pick

    def run(self) -> list[int]:
        """Returns the tokens to finalize now, at least one, and advances the matcher past them."""
        matcher = self.state.matcher
        length = min(len(self.choices), self.state.left - self.first)
        written: list[int] = []
        while len(written) < length and not matcher.ended:
            forced = matcher.forced(self.state.left - self.first - len(written))[: length - len(written)]
            found = forced or self._found(len(written))
            if not found:
                break
            for token in found:
                matcher.take(token)
            written += found
        return written

    def _found(self, place: int) -> list[int]:
        """The token at ``place``, where the grammar leaves a choice, in a list; empty to leave it to a later step."""
        matcher = self.state.matcher
        # Positions after this one, for the rest of the answer and its end token.
        room = self.state.left - self.first - place - 1
        if place < self.at_least:
            token = self._best(place)
            if matcher.closes_after(token, room):
                return [token]
            # If the answer can no longer be ended within its limit, the model's token stands.
            closing = matcher.closing(room + 1)
            return [token if closing is None else closing]
        token = self.choices[place]
        if self.passes[place] and matcher.admits(token) and matcher.closes_after(token, room):
            return [token]
        return []

    def _best(self, place: int) -> int:
        admitted = torch.from_numpy(self.state.matcher.admitted()).to(self.logits.device)
        values = self.logits[place].masked_fill(~admitted, float("-inf"))
        before = self.state.before_edits
        if before is not None and not bool((values > float("-inf")).any()):
            # The request bans every token that its grammar admits here: the grammar wins.
            values = before[place].masked_fill(~admitted, float("-inf"))
        return self.pick(values[None], self.first + place)
