"""Keeps an end that the grammar accepts in reach while an answer is written."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llguidance import LLMatcher

from cdlm.model.decoding.grammar.byte_matching import ends_with
from cdlm.model.decoding.grammar.endings.ending import Ending, Speller
from cdlm.model.decoding.grammar.json_text import INSIDE, OUTSIDE, text_state

if TYPE_CHECKING:
    from cdlm.model.decoding.grammar.compiled import CompiledGrammar

# Without a known end, tokens are admitted while _FAR more tokens are left than the last known end has. An end is
# searched every _SELDOM tokens, after brackets, and where the grammar forces _LONG bytes.
_FAR, _SELDOM, _LONG = 256, 32, 32
_BRACKETS = frozenset(b"{[")

# With this many spare tokens, the known end is good enough even if it is not the shortest.
_ROOMY = 32

# States that a search may visit: the first search of an answer; after a token that leaves the known end; after a token
# with no end in reach.
_AT_FIRST, _BEHIND_A_TOKEN, _OUT_OF_REACH = 3_000, 400, 40
_WIDTHS_AT_FIRST = (5, 2, 16, 1, 64)
_WIDTHS = (5, 2)


@dataclass(slots=True)
class _Place:
    """State of an answer: its matcher over bytes, JSON's state, and a text that ends it.

    If no end is ``known``, ``end`` is the last known one; ``far`` means that something long was opened since.
    """

    matcher: LLMatcher
    state: int
    end: Ending
    known: bool = True
    far: bool = False

    def in_time(self, room: int) -> bool:
        return self.end.tokens <= room if self.known else self.end.tokens + _FAR <= room and not self.far


class Closing:
    """Tracks a text that ends the answer, near the limit of ``limit`` tokens (end token included).

    It depends on the answer's tokens, ``limit`` and ``stop_ids`` alone: an answer that is resumed ends the same way.
    Once an end is in reach it stays in reach if only tokens that ``in_time_after`` or ``affordable`` allow are written:
    after the token ``next`` the end is one token shorter, and only an end in reach replaces it.
    """

    def __init__(self, grammar: "CompiledGrammar", stop_ids: list[int], tokens: list[int], limit: int) -> None:
        self.limit = limit
        self._grammar, self._stop_ids = grammar, stop_ids
        self._speller = Speller(grammar.vocabulary, stop_ids)
        self._count = max(0, min(len(tokens), limit - grammar.horizon))
        self._ahead: tuple[int, _Place] | None = None
        text = b"".join(grammar.vocabulary.tokens[token] for token in tokens[: self._count])
        first = self._speller.ending(grammar.ending(limit))
        self._place = _Place(grammar.over_bytes(), OUTSIDE, first)
        if text:
            self._place.matcher.try_consume_tokens(list(text))
            self._place.state = text_state(text, OUTSIDE)
            self._search(self._place, self._room(self._count), _AT_FIRST)
        for token in tokens[self._count :]:
            self.take(token)

    @property
    def end(self) -> bytes | None:
        """A text that ends the answer, perhaps in more tokens than are left; ``None`` if none was found."""
        return self._place.end.text if self._place.known else None

    @property
    def in_time(self) -> bool:
        """Whether the answer can be ended within the limit; also true if no end is known but many tokens are left."""
        return self._place.in_time(self._room(self._count))

    def in_time_after(self, token: int) -> bool:
        """``in_time`` after one more ``token``."""
        return self._look_ahead(token).in_time(self._room(self._count + 1))

    def next(self) -> int | None:
        """The first token of an end within the limit; ``None`` if none is known."""
        end = self._place.end
        if not self._place.known or not self.in_time:
            return None
        return self._speller.first(end) if end.text else self._stop_ids[0]

    def affordable(self, tokens: list[int]) -> list[int]:
        """Which of the forced ``tokens`` to write so that the answer can still be ended within the limit.

        All of them if an end stays in reach or none is; else the first; or, if even that is too long, the first token
        of the shortest end.
        """
        end, length = self._place.end, 0
        if not self._place.known or not self.in_time:
            return tokens
        for place, token in enumerate(tokens, 1):
            length += len(self._grammar.vocabulary.tokens[token])
            if length > len(end.text) or end.costs[len(end.text) - length] > self._room(self._count + place):
                return tokens[:1] if self.in_time_after(tokens[0]) else [self._speller.first(end)]
        return tokens

    def take(self, token: int) -> None:
        """Appends ``token`` to the answer."""
        self._place, self._ahead = self._look_ahead(token), None
        self._count += 1

    def _look_ahead(self, token: int) -> _Place:
        if self._ahead is None or self._ahead[0] != token:
            self._ahead = (token, self._after(token))
        return self._ahead[1]

    def _after(self, token: int) -> _Place:
        here, text, room = self._place, self._grammar.vocabulary.tokens[token], self._room(self._count + 1)
        after = _Place(here.matcher.deep_copy(), text_state(text, here.state), here.end, known=False)
        if after.matcher.try_consume_tokens(list(text)) != len(text):
            return after
        if here.known and here.end.text.startswith(text):
            after.end, after.known = here.end.behind(len(text)), True
        elif after.state == INSIDE and here.end.tokens + _ROOMY <= room:  # A later search may find a shorter one.
            after.known = ends_with(after.matcher, here.end.text)
        far, opens = here.end.tokens + _FAR <= room, _opens(here, text, after)
        look = not far or opens or (self._count + 1) % _SELDOM == 0
        if look and not (after.known and after.in_time(room)):
            work = _BEHIND_A_TOKEN if here.in_time(room + 1) else _OUT_OF_REACH
            # What was opened takes many tokens to close: from here on an end must be known.
            if far and opens or not far and not here.known and here.in_time(room + 1):
                work = _AT_FIRST
            self._search(after, room, work)
            after.far = opens and not after.known
        return after

    def _search(self, place: _Place, room: int, work: int) -> None:
        """Finds an end of at most ``room`` tokens from ``place``, in ``work`` states, and stores it there."""
        last = place.end
        found = self._grammar.search.shortest(
            place.matcher,
            place.state,
            lambda text: self._speller.ending(text, last).tokens <= room,
            work,
            _WIDTHS_AT_FIRST if work == _AT_FIRST else _WIDTHS,
            last.text,
        )
        place.known = found is not None
        if found is not None:
            place.end = self._speller.ending(found, last)

    def _room(self, count: int) -> int:
        """How many tokens may follow the first ``count``, end token excluded."""
        return self.limit - count - 1


def _opens(here: _Place, text: bytes, after: _Place) -> bool:
    """Whether ``text``, which leads from ``here`` to ``after``, may open something that takes many tokens to close."""
    forced = after.matcher.compute_ff_bytes()
    if not _BRACKETS.isdisjoint(forced) or len(forced) > _LONG:
        return True
    return not _BRACKETS.isdisjoint(text) and (here.state, after.state) != (INSIDE, INSIDE)
