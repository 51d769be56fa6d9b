"""Where one answer stands in its grammar."""

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.endings.closing import Closing
from cdlm.model.decoding.grammar.errors import GrammarError, plain_reason
from cdlm.model.decoding.grammar.json_text import MAX_NUMBER, OUTSIDE, number_length, text_state, without_long_numbers


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
        self._state = text_state(b"".join(self.grammar.vocabulary.tokens[token] for token in tokens))
        self._closing: Closing | None = None
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
        self._state = text_state(self.grammar.vocabulary.tokens[token], self._state)
        if self._closing is not None:
            self._closing.take(token)

    def forced(self, room: int) -> list[int]:
        """Tokens that must come next; empty where there is a choice.

        They are cut as the tokenizer would cut their text, unless that makes the answer too long for ``room`` tokens,
        the end token among them.
        """
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        # An end token among them would have to be taken for the end.
        end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), len(tokens))
        if not tokens[:end] or room > self.grammar.horizon:
            return tokens[:end]
        return self._in_sight(room).affordable(tokens[:end])

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

        True where it is not known, if there is much more room than an end that was known last needs.
        """
        if token in self.stop_ids or room >= self.grammar.horizon:
            return True
        return self._in_sight(room + 1).in_time_after(token)

    def closing(self, room: int) -> int | None:
        """The first token of a way to close the answer with ``room`` tokens; ``None`` if none was found."""
        return self._in_sight(room).next()

    def _in_sight(self, room: int) -> Closing:
        limit = len(self.tokens) + room
        if self._closing is None or self._closing.limit != limit:
            self._closing = Closing(self.grammar, self.stop_ids, self.tokens, limit)
        return self._closing

    def _lengthens(self, head: int) -> bool:
        """Whether ``head`` more characters of a number, if any, make it longer than numbers are meant to be."""
        too_long = head > 0 and self._number + head > MAX_NUMBER
        return self.grammar.json and self._state == OUTSIDE and too_long

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._error("the grammar cannot be followed")

    def _error(self, what: str) -> GrammarError:
        return GrammarError(f"{what}: {plain_reason(self._matcher.get_error())}".rstrip(": "))


def admitted_tokens(matcher: LLMatcher, size: int) -> NDArray[np.bool_]:
    """[size] which tokens may come next, the end not among them."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:size].astype(np.bool_)
