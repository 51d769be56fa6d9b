"""Where one answer stands in its grammar."""

import numpy as np
from numpy.typing import NDArray

from model.grammar.closing import OUTSIDE, admitted_tokens, shortest_close, string_state
from model.grammar.compiled import CompiledGrammar
from model.grammar.errors import GrammarError
from model.grammar.numbers import MAX_NUMBER, number_length, without_long_numbers


class AnswerMatcher:
    """Follows an answer token by token. Any of ``stop_ids`` ends it, where the grammar accepts the end.

    Attributes:
        tokens: what has been written, an end token not included.
        ended: an end token was written.
    """

    def __init__(self, grammar: CompiledGrammar, stop_ids: list[int]) -> None:
        self.grammar = grammar
        self.stop_ids = stop_ids
        self.restart([])

    def restart(self, tokens: list[int]) -> None:
        """Goes to where the answer was after ``tokens``. Raises ``GrammarError`` if it cannot have been there."""
        self._matcher = self.grammar.fresh()
        self.tokens = list(tokens)
        self.ended = False
        self._state = string_state(self.grammar.vocabulary, tokens)
        self._number = number_length(self.grammar.vocabulary, tokens)
        if self._matcher.try_consume_tokens(self.tokens) != len(tokens):
            raise self._error("the tokens written so far are not admitted")

    def take(self, token: int) -> None:
        """Writes an admitted token."""
        if token in self.stop_ids:
            self.ended = True
            return
        if not self._matcher.consume_token(token):
            raise self._error(f"token {token} is not admitted")
        self.tokens.append(token)
        self._number = number_length(self.grammar.vocabulary, [token], self._state, self._number)
        self._state = string_state(self.grammar.vocabulary, [token], self._state)

    def forced(self) -> list[int]:
        """Tokens that must come next, as the tokenizer would cut their text; empty where there is a choice."""
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        # An end token among them would have to be taken for the end.
        end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        return tokens[:end]

    def admits(self, token: int) -> bool:
        """Whether ``token`` may come next."""
        if token in self.stop_ids:
            return self._matcher.is_accepting()
        if self._matcher.validate_tokens([token]) != 1:
            return False
        if self._lengthens(int(self.grammar.vocabulary.number_heads[token])):
            return bool(self.admitted()[token])
        return True

    def admitted(self) -> NDArray[np.bool_]:
        """[vocab] which tokens may come next. Raises ``GrammarError`` when there are none."""
        mask = admitted_tokens(self._matcher, self.grammar.vocabulary.size)
        self._check()
        may_end = self._matcher.is_accepting()
        if self._lengthens(self.grammar.vocabulary.longest_head):
            mask = without_long_numbers(mask, self.grammar.vocabulary, self._number, may_end)
        mask[self.stop_ids] = may_end
        if not mask.any():
            raise self._error("no token is admitted")
        return mask

    def closes_after(self, token: int, room: int) -> bool:
        """Whether the answer can be closed after ``token`` with ``room`` more tokens, the end token among them.

        True without looking where there is room enough.
        """
        if token in self.stop_ids or room >= self.grammar.horizon:
            return True
        ahead = self._matcher.deep_copy()
        if not ahead.consume_token(token):
            return False
        vocabulary = self.grammar.vocabulary
        state = string_state(vocabulary, [token], self._state)
        return shortest_close(ahead, vocabulary, state, room - 1) is not None

    def closing(self, room: int) -> int | None:
        """The first token of a way to close the answer with ``room`` tokens; ``None`` if none was found."""
        path = shortest_close(self._matcher.deep_copy(), self.grammar.vocabulary, self._state, room - 1)
        if path is None:
            return None
        return path[0] if path else self.stop_ids[0]

    def _lengthens(self, head: int) -> bool:
        """Whether ``head`` more characters of a number, if any, make it longer than numbers are meant to be."""
        too_long = head > 0 and self._number + head > MAX_NUMBER
        return self.grammar.json and self._state == OUTSIDE and too_long

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._error("the grammar cannot be followed")

    def _error(self, what: str) -> GrammarError:
        return GrammarError(f"{what}: {self._matcher.get_error().partition(chr(10))[0][:200]}".rstrip(": "))
