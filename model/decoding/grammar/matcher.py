"""Follows one answer through its grammar."""

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from cdlm.model.decoding.grammar.endings.closing import Closing
from cdlm.model.decoding.grammar.errors import GrammarError, plain_reason
from cdlm.model.decoding.grammar.json_text import MAX_NUMBER, OUTSIDE, number_length, text_state, without_long_numbers


class AnswerMatcher:
    """Follows an answer token by token. Any of ``stop_ids`` ends it when the grammar accepts the end.

    Attributes:
        tokens: the tokens written so far, end token excluded.
        ended: whether an end token was written.
    """

    def __init__(self, grammar: CompiledGrammar, stop_ids: list[int]) -> None:
        self.grammar = grammar
        self.stop_ids = stop_ids
        self.restart([])

    def restart(self, tokens: list[int]) -> None:
        """Resets the answer to ``tokens``; raises ``GrammarError`` if the grammar does not admit them."""
        self._matcher = self.grammar.fresh()
        self.tokens = list(tokens)
        self.ended = False
        self._state = text_state(b"".join(self.grammar.vocabulary.tokens[token] for token in tokens))
        self._closing: Closing | None = None
        self._number = number_length(self.grammar.vocabulary, tokens)
        if self._matcher.try_consume_tokens(self.tokens) != len(tokens):
            raise self._error("the tokens written so far are not admitted")

    def take(self, token: int) -> None:
        """Appends a token; raises ``GrammarError`` if the grammar does not admit it."""
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

        They are the tokenizer's tokens of the forced text, unless the answer would then exceed ``room`` tokens (end
        token included).
        """
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        # A stop id inside forced text would end the answer.
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
        """[vocab] bool: which tokens may come next; raises ``GrammarError`` if there are none."""
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
        """Whether the answer can be ended after ``token`` with ``room`` more tokens, end token included.

        Also true if no end is known but ``room`` is much larger than the last known end.
        """
        if token in self.stop_ids or room >= self.grammar.horizon:
            return True
        return self._in_sight(room + 1).in_time_after(token)

    def closing(self, room: int) -> int | None:
        """The first token of an end of at most ``room`` tokens; ``None`` if none is known."""
        return self._in_sight(room).next()

    def _in_sight(self, room: int) -> Closing:
        limit = len(self.tokens) + room
        if self._closing is None or self._closing.limit != limit:
            self._closing = Closing(self.grammar, self.stop_ids, self.tokens, limit)
        return self._closing

    def _lengthens(self, head: int) -> bool:
        """Whether ``head`` more characters make the current number longer than ``MAX_NUMBER``."""
        too_long = head > 0 and self._number + head > MAX_NUMBER
        return self.grammar.json and self._state == OUTSIDE and too_long

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._error("the grammar cannot be followed")

    def _error(self, what: str) -> GrammarError:
        return GrammarError(f"{what}: {plain_reason(self._matcher.get_error())}".rstrip(": "))


def admitted_tokens(matcher: LLMatcher, size: int) -> NDArray[np.bool_]:
    """[size] bool: which tokens may come next, end token excluded."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:size].astype(np.bool_)
