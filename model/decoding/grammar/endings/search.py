"""Finds a short text after which a grammar accepts the end."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from llguidance import LLMatcher

from cdlm.model.decoding.grammar.byte_matching import LETTERS, PAIRS, PLACE, admits, ends_with
from cdlm.model.decoding.grammar.json_text import ESCAPED, INSIDE, OUTSIDE, next_state

# Of bytes with the same successors, one or two are tried. Bytes with at most this many successors belong to literal
# text, which differs later: all of them are tried.
_FREE_ROW = 8
_SAMPLED = 12

# Order of the bytes that are tried: closing punctuation first, then digits that can end a number.
_REACH, _HEAD = 64, 12
_WORK_PER_PLACE = 120
_ENDS_STRING, _ENDS_VALUE = b'"', b"}],"
_FIRST = {byte: place for place, byte in enumerate(b'}]",:1234567890')}


def _plainness(byte: int) -> tuple[bool, int]:
    return not chr(byte).isalnum() or byte >= 0x80, _FIRST.get(byte, byte)


@dataclass(slots=True)
class _Way:
    """A candidate text and the state after it: matcher, JSON's state, and depth of open brackets.

    ``refused`` counts choices that left a value open although it could be closed, ``forced`` the bytes that the grammar
    forced; ``literal`` is the index of the last literal used, ``literals`` how many were used.
    """

    matcher: LLMatcher
    text: bytes
    state: int
    depth: int = 0
    refused: int = 0
    forced: int = 0
    literal: int = -1
    literals: int = 0
    _mask: bytes | None = None

    @property
    def mask(self) -> bytes:
        """What may follow, a bit mask over ``BYTES``."""
        if self._mask is None:
            self._mask = self.matcher.compute_bitmask()
        return self._mask

    def place(self, *, counted: bool = False) -> tuple[bytes, int, int]:
        """A key for the state that the text leads to; different states may share a key."""
        return self.mask, self.depth, self.literals if counted else self.literal


@dataclass(slots=True)
class EndSearch:
    """Finds ends of one grammar's answers, with matchers over ``BYTES``.

    A beam search: each level makes one choice and appends the text that it forces. A level keeps up to ``width``
    candidates that lead to different states, as far as the next two bytes show.

    Attributes:
        literals: texts that are tried as one choice.
        writable: the bytes that some token of the model stands for alone.
        json: whether the grammar contains JSON.
        exhausted: whether the last search ran out of work.
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
            matcher: where the text begins; not changed.
            state: JSON's state there (``json_text``).
            enough: whether a text is short enough to stop the search.
            work: how many states the search may visit.
            widths: one search per entry. Entries 0, 2, ... are beam widths; entries 1, 3, ... search by length, with
                that many candidates per state.
            rest: an earlier end of the answer, whose last bytes may complete a text again.
            reach: how many bytes of ``rest`` may be skipped for that.
        """
        self._work, self.exhausted = work, False
        start = self._step(_Way(matcher, b"", state), b"", -1)
        if start is None:
            return None
        if (best := self._end(start, rest, reach)) is not None and enough(best):
            return best
        for place, width in enumerate(widths):
            limit = 1 << 30 if best is None else len(best)
            # Leaves work for the later searches.
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
        """Shortens ``end``, a text that ends the answer from the state of ``matcher``, visiting ``work`` states at
        most.
        """
        self._work = work
        start = self._step(_Way(matcher, b"", state), b"", -1)
        return end if start is None else self._shortened(start, end)

    def _broad(self, start: _Way, rest: bytes, width: int, limit: int) -> bytes | None:
        """A beam search that prefers candidates that closed values early and followed forced text.

        Ties go to candidates with later literals, or for an even ``width`` with more literals.
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
        """Removes detours from ``end`` that searches from single positions of it find."""
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
        """Extends the shortest candidate first; keeps at most ``most`` candidates per state."""
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
        """Appends ``text`` and the text that it forces; ``None`` if the grammar exceeds a limit."""
        self._work -= 1 + (len(way.text) >> 6)
        matcher = way.matcher.deep_copy()
        forced = b""
        if matcher.try_consume_tokens(list(text)) == len(text):
            forced = matcher.compute_ff_bytes()
            matcher.try_consume_tokens(list(forced))
        if matcher.is_error():  # Admitted text fails only if the grammar exceeds a limit.
            self.exhausted = True
            return None
        known = way.text + text + forced
        literals = way.literals + (text in self.literals)
        after = _Way(matcher, known, way.state, way.depth, way.refused, way.forced + len(forced), literal, literals)
        for byte in text + forced if self.json else b"":
            before = after.state
            after.state = next_state(before, byte)
            if before == INSIDE and after.state == OUTSIDE:
                after.literal, after.literals = -1, 0
            elif before == OUTSIDE and after.state == OUTSIDE:
                after.depth += (byte in b"{[") - (byte in b"}]")
        closers = _ENDS_STRING if way.state == INSIDE else _ENDS_VALUE
        if self.json and text and text[0] not in closers:
            after.refused += any(admits(way.mask, byte) for byte in closers)
        return after

    def _end(self, way: _Way, rest: bytes, reach: int = _REACH) -> bytes | None:
        """The candidate's text, perhaps with last bytes of ``rest``, if the grammar accepts the end; else ``None``."""
        if way.matcher.is_accepting():
            return way.text
        if rest:
            mask = way.mask
            for start in range(min(reach, len(rest)) - 1, -1, -1):
                if not admits(mask, rest[start]):
                    continue
                head = list(rest[start : start + _HEAD])
                if way.matcher.validate_tokens(head) == len(head):
                    self._work -= (len(rest) - start) >> 5
                    if ends_with(way.matcher, rest[start:]):
                        return way.text + rest[start:]
        return None

    def _next(self, way: _Way, *, wide: bool) -> list[tuple[bytes, int]]:
        """The texts to try next, each with the index of its literal (-1 if it is none)."""
        mask = way.mask
        singles = {bytes([byte]): way.literal for byte in self._sampled(mask, wide=wide)}
        for place, text in enumerate(self.literals):
            # Of equal literals, the first after the last used: the literals of one expression follow its order.
            known = singles.get(text, -1)
            if way.state == ESCAPED or not admits(mask, text[0]) or way.literal < known < place:
                continue
            if way.matcher.validate_tokens(list(text)) == len(text):
                singles[text] = place
        return list(singles.items())

    def _sampled(self, mask: bytes, *, wide: bool) -> list[int]:
        """Admitted bytes, a few per set of successors."""
        if (known := self._choices.get((mask, wide))) is not None:
            return known
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
        rows = np.packbits(bits[PAIRS].reshape(len(LETTERS), -1), axis=1)
        alike: dict[bytes | int, list[int]] = {}
        for byte in np.flatnonzero(bits[:256]).tolist():
            if byte in self.writable:
                # Of non-ASCII bytes only the kind is compared: which part of a character they are.
                key = rows[PLACE[byte]].tobytes() if byte in PLACE else byte if byte < 0x80 else byte >> 4
                alike.setdefault(key, []).append(byte)
        chosen: list[int] = []
        for key, same in alike.items():
            free = isinstance(key, int) or int.from_bytes(key).bit_count() > _FREE_ROW
            if len(same) > (_SAMPLED if wide else 2) and (wide or free):
                same = [*{min(same, key=_plainness), same[0], same[-1]}]
            chosen += same
        if not wide:
            # Escapes and multi-byte characters only if nothing else is admitted.
            plain = [byte for byte in chosen if byte < 0x80 and byte != 0x5C]
            chosen = plain or chosen
        chosen.sort(key=lambda byte: (byte >= 0x80, _FIRST.get(byte, 50), byte))
        if len(self._choices) >= 4096:
            self._choices.clear()
        self._choices[mask, wide] = chosen
        return chosen
