"""Finalization of rows that follow a grammar: from the left only, each token admitted after the ones before it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cdlm.model.decoding.canvas import Canvas
from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.errors import GrammarError
from cdlm.model.decoding.grammar.matcher import AnswerMatcher
from cdlm.model.row import RowWork

# The token that an offset of the block takes from some logits [1, vocab].
Pick = Callable[[Tensor, int], int]


@dataclass(slots=True)
class _RowState:
    """``left`` counts positions from the block's beginning to the last token the answer may have.

    ``before`` is how many tokens were generated before the block.
    """

    matcher: AnswerMatcher
    left: int = 0
    before: int = 0

    def rewind(self, written: int) -> None:
        """Goes back to where the block stands, with so many tokens: a step that failed may have gone on from there."""
        tokens = self.matcher.tokens[: self.before + written]
        if self.matcher.ended or len(tokens) < len(self.matcher.tokens):
            self.matcher.restart(tokens)


class ConstrainedRows:
    """Keeps where the rows that follow a grammar stand in it; other rows cost nothing."""

    def __init__(self, vocab_size: int, mask_token_id: int, device: torch.device) -> None:
        self.vocab_size, self.mask_token_id, self.device = vocab_size, mask_token_id, device
        self._rows: dict[int, _RowState] = {}

    @property
    def rows(self) -> set[int]:
        """The rows that follow a grammar."""
        return set(self._rows)

    def open_row(self, row: int, grammar: CompiledGrammar | None, stop_ids: list[int]) -> None:
        """Gives a row to a request; ``None`` for one without a grammar."""
        self.release(row)
        if grammar is not None:
            written = [token for token in stop_ids if 0 <= token < self.vocab_size and token != self.mask_token_id]
            self._rows[row] = _RowState(AnswerMatcher(grammar, written))

    def open_block(self, row: int, generated: list[int], left: int) -> None:
        """Goes to the beginning of a block.

        Args:
            row: its row.
            generated: all tokens of finished blocks.
            left: positions from the block's beginning to the last token the answer may have, given ones included.
        """
        state = self._rows.get(row)
        if state is not None:
            state.left, state.before = left, len(generated)
            if state.matcher.tokens != generated:  # The row was preempted, and what it had begun is dropped.
                state.matcher.restart(generated)

    def check(self, row: int, generated: list[int], canvas: Canvas) -> None:
        """Asserts that a row's matcher stands behind ``generated``, all tokens of its finished blocks, and the block's.

        An end token is none of them.
        """
        state = self._rows.get(row)
        if state is not None:
            here = canvas.tokens[row, canvas.first[row] : canvas.block_length - canvas.left[row]].tolist()
            assert state.matcher.tokens == generated + here[: len(here) - state.matcher.ended], f"row {row}"

    def release(self, row: int) -> None:
        """Forgets a row."""
        self._rows.pop(row, None)

    def keep(self, works: list[RowWork], counts: list[int], logits: Tensor) -> dict[int, Tensor]:
        """By index in ``works``, the logits [count, vocab] of rows that follow a grammar and are edited.

        They are for positions where the edits leave none of the tokens that the grammar admits.
        """
        kept: dict[int, Tensor] = {}
        if not self._rows:
            return kept
        end = 0
        for index, (work, count) in enumerate(zip(works, counts, strict=True)):
            start, end = end, end + count
            if work.constrained and work.edited:
                kept[index] = logits[start:end].clone()
        return kept

    def choose(
        self,
        works: list[RowWork],
        counts: list[int],
        canvas: Canvas,
        logits: Tensor,
        token: Tensor,
        now: Tensor,
        before_edits: dict[int, Tensor],
        pick: Callable[[int], Pick],
    ) -> dict[int, str]:
        """Replaces what is finalized in rows that follow a grammar.

        Args:
            works: the rows of the step.
            counts: how many predicted positions each has; those of constrained rows lie side by side.
            canvas: not changed.
            logits: [positions, vocab], edited.
            token: [positions] int64, the model's own choice; changed in place.
            now: [rows, block] bool, what each row's rule finalizes; changed in place.
            before_edits: what ``keep`` returned.
            pick: by index in ``works``, how the row takes a token from logits.

        Returns:
            By index in ``works``, why a row cannot go on; nothing of it is finalized.
        """
        failed: dict[int, str] = {}
        if not self._rows:
            return failed
        end = 0
        for index, (work, count) in enumerate(zip(works, counts, strict=True)):
            start, end = end, end + count
            if not work.constrained:
                continue
            first, state = canvas.block_length - canvas.left[work.row], self._rows[work.row]
            state.rewind(first - canvas.first[work.row])
            walk = _Walk(
                state,
                first,
                token[start:end].tolist(),
                now[index, first : first + count].tolist(),
                canvas.at_least(work.row),
                logits[start:end],
                before_edits.get(index),
                pick(index),
            )
            now[index] = False
            try:
                written = walk.run()
            except GrammarError as error:
                failed[index] = str(error)
                continue
            now[index, first : first + len(written)] = True
            token[start : start + len(written)] = torch.tensor(written, dtype=token.dtype, device=token.device)
        return failed


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
    before_edits: Tensor | None
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
        if self.before_edits is not None and not bool((values > float("-inf")).any()):
            # The request bans all that its grammar admits here. The grammar is kept.
            values = self.before_edits[place].masked_fill(~admitted, float("-inf"))
        return self.pick(values[None], self.first + place)
