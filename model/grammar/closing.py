"""How an answer can be brought to an end that its grammar accepts, kept in sight while it is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from cdlm.model.grammar.json_state import OUTSIDE, text_state

if TYPE_CHECKING:
    from cdlm.model.grammar.compiled import CompiledGrammar

# Places that may be looked at where keeping an end in sight begins, and after a token that leads away from it.
_WORK_AT_FIRST = 3_000
_WORK_PER_TOKEN = 400
_WORK_OUT_OF_REACH = 40
_WIDTHS_AT_FIRST = (5, 2, 16, 1, 64)
_WIDTHS_PER_TOKEN = (5, 2)


@dataclass(slots=True)
class _Place:
    """Where an answer stands: its grammar over bytes, JSON's state, and a text that ends it, if one is known."""

    matcher: LLMatcher
    state: int
    end: bytes | None


class Closing:
    """A text that ends the answer, for the last tokens of an answer of at most ``limit`` tokens, end token included.

    It is a function of the answer's tokens and of ``limit`` alone, so an answer that is begun again ends alike.
    """

    def __init__(self, grammar: "CompiledGrammar", tokens: list[int], limit: int) -> None:
        self.limit = limit
        self._grammar = grammar
        self._count = max(0, min(len(tokens), limit - grammar.horizon))
        self._ahead: tuple[int, _Place] | None = None
        text = b"".join(grammar.vocabulary.tokens[token] for token in tokens[: self._count])
        matcher, state = grammar.over_bytes(), text_state(text, OUTSIDE)
        matcher.try_consume_tokens(list(text))
        end = grammar.search.shortest(
            matcher, state, self._fits(self._count), _WORK_AT_FIRST, _WIDTHS_AT_FIRST, grammar.end, len(grammar.end)
        )
        self._place = _Place(matcher, state, end)
        for token in tokens[self._count :]:
            self.take(token)

    @property
    def end(self) -> bytes | None:
        """A text that ends the answer; ``None`` if none was found."""
        return self._place.end

    def end_after(self, token: int) -> bytes | None:
        """A text that ends the answer once ``token`` is written; ``None`` if none was found."""
        if self._ahead is None or self._ahead[0] != token:
            self._ahead = (token, self._after(token))
        return self._ahead[1].end

    def take(self, token: int) -> None:
        """Goes on behind ``token``."""
        self.end_after(token)
        assert self._ahead is not None
        self._place, self._ahead = self._ahead[1], None
        self._count += 1

    def _after(self, token: int) -> _Place:
        here, text = self._place, self._grammar.vocabulary.tokens[token]
        matcher, state = here.matcher.deep_copy(), text_state(text, here.state)
        if matcher.try_consume_tokens(list(text)) != len(text):
            return _Place(matcher, state, None)
        if here.end is not None and here.end.startswith(text):
            return _Place(matcher, state, here.end[len(text) :])
        # Where no end is in reach, little is lost: the answer is likely too long for its limit in any case.
        work = _WORK_PER_TOKEN if here.end is not None and self._fits(self._count)(here.end) else _WORK_OUT_OF_REACH
        fits, rest = self._fits(self._count + 1), here.end or b""
        end = self._grammar.search.shortest(matcher, state, fits, work, _WIDTHS_PER_TOKEN, rest)
        return _Place(matcher, state, end)

    def _fits(self, count: int) -> "_Fits":
        return _Fits(self._grammar, self.limit - count - 1)


@dataclass(frozen=True, slots=True)
class _Fits:
    """Whether a text has at most ``room`` tokens, as far as can be told without writing it."""

    grammar: "CompiledGrammar"
    room: int

    def __call__(self, text: bytes) -> bool:
        return len(text) <= self.room or self.grammar.vocabulary.count(text) <= self.room
