"""Finalization of rows that follow a grammar: from the left only, each token admitted after the ones before it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.decoding.draws import Pick, pick
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.decoding.processors.processor import Processor, Step
from cdlm.model.decoding.settings import BlockStart, RowSettings


@dataclass(slots=True)
class _RowState:
    """Where a row stands.

    Attributes:
        edited: whether its logits are edited.
        left: positions from the block's beginning to the last token the answer may have.
        before: how many tokens were generated before the block.
        before_edits: [positions, vocab], its logits in a step before they were edited.
    """

    matcher: AnswerMatcher
    edited: bool
    left: int = 0
    before: int = 0
    before_edits: Tensor | None = None

    def rewind(self, written: int) -> None:
        """Goes back to where the block stands, with so many tokens: a step that failed may have gone on from there."""
        tokens = self.matcher.tokens[: self.before + written]
        if self.matcher.ended or len(tokens) < len(self.matcher.tokens):
            self.matcher.restart(tokens)


class Constrained(Processor[_RowState]):
    """Keeps where the rows that follow a grammar stand in it, and finalizes their tokens."""

    def state(self, settings: RowSettings) -> _RowState | None:
        """The beginning of the row's grammar."""
        if settings.grammar is None:
            return None
        mask = self.canvas.mask_token_id
        stops = [token for token in settings.stop_ids if 0 <= token < self.vocab_size and token != mask]
        return _RowState(AnswerMatcher(settings.grammar, stops), edited=settings.params.edits_logits)

    def open_block(self, row: int, start: BlockStart) -> None:
        """Goes to the beginning of a block."""
        state = self.states.get(row)
        if state is not None:
            state.left, state.before = start.left, len(start.generated)
            if state.matcher.tokens != start.generated:  # The row was preempted, and what it had begun is dropped.
                state.matcher.restart(start.generated)

    def check(self, row: int, start: BlockStart) -> None:
        """Asserts that a row's matcher has taken all tokens of its finished blocks, and the block's.

        An end token is none of them. The matcher may be ahead, where a later processor has left tokens to a later step.
        """
        state, canvas = self.states.get(row), self.canvas
        if state is not None:
            here = canvas.tokens[row, canvas.first[row] : canvas.block_length - canvas.left[row]].tolist()
            taken = start.generated + here
            if state.matcher.ended and len(taken) > len(state.matcher.tokens):
                del taken[-1]
            assert state.matcher.tokens[: len(taken)] == taken, f"row {row}"

    def edit(self, step: Step) -> None:
        """Keeps the logits of rows that are edited too, for where that leaves no token that the grammar admits."""
        for _, work, mine in step.rows():
            state = self.states.get(work.row)
            if state is not None and state.edited:
                state.before_edits = step.logits[mine].clone()

    def decide(self, step: Step) -> None:
        """Replaces what is finalized in rows that follow a grammar; one that cannot be followed fails its row."""
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
    """One row's step, from its first position without a token (offset ``first``) on.

    ``choices`` and ``passes`` are the model's own token at each predicted position, and whether the row's rule
    finalizes it; ``at_least`` positions are finalized in any case. logits [positions, vocab].
    """

    state: _RowState
    first: int
    choices: list[int]
    passes: list[bool]
    at_least: int
    logits: Tensor
    pick: Pick

    def run(self) -> list[int]:
        """The tokens finalized now, at least one; the matcher stands behind them."""
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
        """The token at ``place``, where there is a choice: one, or none if that is left to a later step."""
        matcher = self.state.matcher
        # Positions behind this one, the end token's among them.
        room = self.state.left - self.first - place - 1
        if place < self.at_least:
            token = self._best(place)
            if matcher.closes_after(token, room):
                return [token]
            # Where the answer cannot be closed in time any more, the model goes on as it likes.
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
            # The request bans all that its grammar admits here. The grammar is kept.
            values = before[place].masked_fill(~admitted, float("-inf"))
        return self.pick(values[None], self.first + place)
