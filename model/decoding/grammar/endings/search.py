"""Looks for a short text after which a grammar accepts the end."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from llguidance import LLMatcher

from cdlm.model.decoding.grammar.byte_matching import LETTERS, PAIRS, PLACE, admits, ends_with
from cdlm.model.decoding.grammar.json_text import ESCAPED, INSIDE, OUTSIDE, next_state

# Bytes that lead on alike are tried once or twice. Rows of so few bits are spelled-out texts, which differ further on.
_FREE_ROW = 8
_SAMPLED = 12

# Of bytes that are tried, these come first: what closes, then digits that may stand alone.
_REACH, _HEAD = 64, 12
_WORK_PER_PLACE = 120
_ENDS_STRING, _ENDS_VALUE = b'"', b"}],"
_FIRST = {byte: place for place, byte in enumerate(b'}]",:1234567890')}


def _plainness(byte: int) -> tuple[bool, int]:
    return not chr(byte).isalnum() or byte >= 0x80, _FIRST.get(byte, byte)


@dataclass(slots=True)
class _Way:
    """A text and where it leads: the matcher, JSON's state and its open brackets.

    ``refused`` counts choices of something else where a value could have been closed, ``forced`` the bytes that came
    without a choice; ``literal`` is the last literal used, ``literals`` how many were.
    """

    matcher: LLMatcher
    text: bytes
    state: int
    depth: int = 0
    refused: int = 0
    forced: int = 0
    literal: int = -1
    literals: int = 0

    def place(self, *, counted: bool = False) -> tuple[bytes, int, int]:
        """What can be told of where it leads; other places may look the same."""
        return self.matcher.compute_bitmask(), self.depth, self.literals if counted else self.literal


@dataclass(slots=True)
class EndSearch:
    """Searches one grammar, which is that of ``matcher`` over ``BYTES``.

    A level of the search is one choice and the text that it forces. Of the ways at a level those are kept, up to a
    width, that lead to different places as far as can be seen two bytes ahead.

    Attributes:
        literals: texts that are tried as a whole.
        writable: the bytes that the model's tokens can write one by one.
        json: the grammar has JSON in it.
        exhausted: the last search left places out.
    """

    literals: list[bytes]
    writable: frozenset[int]
    json: bool
    exhausted: bool = False
    _choices: dict[tuple[bytes, bool], list[int]] = field(default_factory=dict)
    _work: int = 0

    def shortest(
        self,
        matcher: LLMatcher,
        state: int,
        enough: Callable[[bytes], bool],
        work: int,
        widths: Sequence[int],
        rest: bytes = b"",
        reach: int = _REACH,
    ) -> bytes | None:
        """The shortest text found after which the grammar accepts the end; ``None`` if none was found.

        Args:
            matcher: where the text begins, and JSON is in ``state``; not changed.
            enough: tells of a text that none shorter is needed.
            work: how many places may be looked at.
            widths: how many ways are kept, one search after the other; every second one goes by length, and keeps so
                many ways that look alike.
            rest: an end of the answer before; its last bytes may be one again, after a few others, or if they begin
                within ``reach`` bytes of it at once.
        """
        self._work, self.exhausted = work, False
        start = self._step(_Way(matcher, b"", state), b"", -1)
        if start is None:
            return None
        if (best := self._end(start, rest, reach)) is not None and enough(best):
            return best
        for place, width in enumerate(widths):
            limit = 1 << 30 if best is None else len(best)
            # What comes later must have its share.
            self._work = work if place + 1 == len(widths) else work // 3
            work -= self._work
            found = (self._by_length if place % 2 else self._broad)(start, rest, width, limit)
            best = best if found is None else found
            self.exhausted |= self._work <= 0
            if best is not None and not enough(best):
                best = self._shortened(start, best)
            work += max(self._work, 0)
            if best is not None and enough(best):
                break
        return best

    def shortened(self, matcher: LLMatcher, state: int, end: bytes, work: int) -> bytes:
        """``end``, after which the grammar of ``matcher`` accepts the end, or a shorter one that is found from it."""
        self._work = work
        start = self._step(_Way(matcher, b"", state), b"", -1)
        return end if start is None else self._shortened(start, end)

    def _broad(self, start: _Way, rest: bytes, width: int, limit: int) -> bytes | None:
        """Level by level; those ways first that refused to close the least, and got on with what is forced.

        Then come those that used the later literals, or with an even ``width`` more of them.
        """
        counted = width % 2 == 0
        level = [start]
        found: bytes | None = None
        while level and found is None and self._work > 0:
            ways: list[_Way] = []
            for way in level:
                for text, literal in self._next(way, wide=False):
                    if self._work <= 0 or (after := self._step(way, text, literal)) is None:
                        continue
                    if len(after.text) >= limit:
                        continue
                    if (end := self._end(after, rest)) is None:
                        ways.append(after)
                    elif len(end) < limit:
                        found, limit = end, len(end)
            ways.sort(
                key=lambda way: (
                    way.refused, way.depth, -way.forced, -way.literals if counted else -way.literal, len(way.text)
                )
            )  # fmt: skip
            level, seen = [], set()
            for way in ways:
                place = way.place(counted=counted)
                if place not in seen and not way.matcher.is_error():
                    seen.add(place)
                    level.append(way)
                    if len(level) == width:
                        break
        return found

    def _shortened(self, start: _Way, end: bytes) -> bytes:
        """``end`` with detours left out, as far as they are found from single places of it."""
        way, work = start, self._work
        while work > 0 and len(way.text) < len(end):
            self._work = min(work, _WORK_PER_PLACE)
            work -= self._work
            found = self._by_length(way, end[len(way.text) :], 2, len(end))
            work += max(self._work, 0)
            end = end if found is None else found
            step = self._step(way, end[len(way.text) : len(way.text) + 1], -1)
            if step is None or not end.startswith(step.text):
                break
            way = step
        self._work = work
        return end

    def _by_length(self, start: _Way, rest: bytes, most: int, limit: int) -> bytes | None:
        """The shortest ways first, of those that lead to one place at most so many."""
        waiting: list[tuple[int, int, _Way]] = [(0, 0, start)]
        seen: dict[tuple[bytes, int, int], int] = {}
        order, found = 0, None
        while waiting and self._work > 0:
            _, _, way = heapq.heappop(waiting)
            place = way.place()
            seen[place] = seen.get(place, 0) + 1
            if seen[place] > most or way.matcher.is_error() or len(way.text) >= limit:
                continue
            for text, literal in self._next(way, wide=True):
                if self._work <= 0 or (after := self._step(way, text, literal)) is None:
                    continue
                if len(after.text) >= limit:
                    continue
                if (end := self._end(after, rest)) is None:
                    order += 1
                    heapq.heappush(waiting, (len(after.text) + after.depth, order, after))
                elif len(end) < limit:
                    found, limit = end, len(end)
        return found

    def _step(self, way: _Way, text: bytes, literal: int) -> _Way | None:
        """Goes on with ``text`` and what it forces."""
        self._work -= 1 + (len(way.text) >> 6)
        matcher = way.matcher.deep_copy()
        forced = b""
        if matcher.try_consume_tokens(list(text)) == len(text):
            forced = matcher.compute_ff_bytes()
            matcher.try_consume_tokens(list(forced))
        if matcher.is_error():  # The grammar exceeds a limit there: nothing else fails that is admitted.
            self.exhausted = True
            return None
        known = way.text + text + forced
        after = replace(way, matcher=matcher, text=known, literal=literal, forced=way.forced + len(forced))
        after.literals += text in self.literals
        for byte in text + forced if self.json else b"":
            before = after.state
            after.state = next_state(before, byte)
            if before == INSIDE and after.state == OUTSIDE:
                after.literal, after.literals = -1, 0
            elif before == OUTSIDE and after.state == OUTSIDE:
                after.depth += (byte in b"{[") - (byte in b"}]")
        closers = _ENDS_STRING if way.state == INSIDE else _ENDS_VALUE
        if self.json and text and text[0] not in closers:
            mask = way.matcher.compute_bitmask()
            after.refused += any(admits(mask, byte) for byte in closers)
        return after

    def _end(self, way: _Way, rest: bytes, reach: int = _REACH) -> bytes | None:
        """The end that a way has reached, be it with a part of ``rest`` that begins within ``reach`` bytes of it."""
        if way.matcher.is_accepting():
            return way.text
        if rest:
            mask = way.matcher.compute_bitmask()
            for start in range(min(reach, len(rest)) - 1, -1, -1):
                head = list(rest[start : start + _HEAD])
                if admits(mask, rest[start]) and way.matcher.validate_tokens(head) == len(head):
                    self._work -= (len(rest) - start) >> 5
                    if ends_with(way.matcher, rest[start:]):
                        return way.text + rest[start:]
        return None

    def _next(self, way: _Way, *, wide: bool) -> list[tuple[bytes, int]]:
        """What to go on with, and the literal that it is."""
        mask = way.matcher.compute_bitmask()
        singles = {bytes([byte]): way.literal for byte in self._sampled(mask, wide=wide)}
        for place, text in enumerate(self.literals):
            # The first of equal ones behind the last used, so that those of one expression come in their order.
            known = singles.get(text, -1)
            if way.state == ESCAPED or not admits(mask, text[0]) or way.literal < known < place:
                continue
            if way.matcher.validate_tokens(list(text)) == len(text):
                singles[text] = place
        return list(singles.items())

    def _sampled(self, mask: bytes, *, wide: bool) -> list[int]:
        """Admitted bytes, a few of those that lead on alike."""
        if (known := self._choices.get((mask, wide))) is not None:
            return known
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
        rows = np.packbits(bits[PAIRS].reshape(len(LETTERS), -1), axis=1)
        alike: dict[bytes | int, list[int]] = {}
        for byte in np.flatnonzero(bits[:256]).tolist():
            if byte in self.writable:
                # Of other bytes only the kind is known: parts of a character, and which.
                key = rows[PLACE[byte]].tobytes() if byte in PLACE else byte if byte < 0x80 else byte >> 4
                alike.setdefault(key, []).append(byte)
        chosen: list[int] = []
        for key, same in alike.items():
            free = isinstance(key, int) or int.from_bytes(key).bit_count() > _FREE_ROW
            if len(same) > (_SAMPLED if wide else 2) and (wide or free):
                same = [*{min(same, key=_plainness), same[0], same[-1]}]
            chosen += same
        if not wide:
            # Escapes and characters of several bytes only where there is nothing else.
            plain = [byte for byte in chosen if byte < 0x80 and byte != 0x5C]
            chosen = plain or chosen
        chosen.sort(key=lambda byte: (byte >= 0x80, _FIRST.get(byte, 50), byte))
        if len(self._choices) >= 4096:
            self._choices.clear()
        self._choices[mask, wide] = chosen
        return chosen
