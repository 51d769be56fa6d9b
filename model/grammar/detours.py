"""Texts that end an answer in fewer tokens than a short text does."""

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from cdlm.model.grammar.byte_matching import admits, ends_with
from cdlm.model.grammar.ending import NEVER, Ending, Speller
from cdlm.model.grammar.json_state import OUTSIDE, text_state
from cdlm.model.grammar.search import EndSearch
from cdlm.model.grammar.vocabulary import Vocabulary

# Tokens that are tried at a place: those that hold a sign of JSON's own, and others, by how long they are.
_WITH_SIGNS, _OTHERS, _OF_A_LENGTH = 160, 96, 4

# How far behind the token that is left out a text may be joined again, and places that are looked at where it is not.
_REACH = 48
_WORK_PER_TOKEN = 40
_WIDTHS = (2, 1)
_PASSES = 4


@dataclass(slots=True)
class Detours:
    """Replaces parts of a text by tokens that bring its end nearer, one after the other.

    Attributes:
        search: of the grammar.
        speller: counts the tokens of a text.
        by_token: the grammar's matcher over the vocabulary, at the beginning, which forces nothing.
        by_byte: the same over bytes.
    """

    vocabulary: Vocabulary
    search: EndSearch
    speller: Speller
    by_token: LLMatcher
    by_byte: LLMatcher
    _work: int = 0

    def fewest(self, text: bytes, work: int) -> Ending:
        """An end of the answer in as few tokens as were found from ``text``, which is one too."""
        self._work, best = work, self.speller.ending(text)
        for _ in range(_PASSES):
            before = best.tokens
            best = self._passed(best)
            if best.tokens == before or self._work <= 0:
                break
        return best

    def _passed(self, best: Ending) -> Ending:
        start, written, state = 0, [0], OUTSIDE
        by_token, by_byte = self.by_token.deep_copy(), self.by_byte.deep_copy()
        while start < len(best.text) and self._work > 0:
            found = self._shorter(best, start, written[start], state, by_token, by_byte)
            if found is not None:
                best = found
                continue
            pieces = self.vocabulary.pieces(best.text, start)
            if not pieces:
                break
            token, length = pieces[-1]
            by_token.consume_token(token)
            for _ in range(length):
                written.append(self._written(best.text, len(written), written))
            piece = best.text[start : start + length]
            by_byte.try_consume_tokens(list(piece))
            start, state = start + length, text_state(piece, state)
        return best

    def _written(self, text: bytes, end: int, written: list[int]) -> int:
        """The fewest tokens that write the first ``end`` bytes, given those for fewer."""
        longest = self.vocabulary.longest
        starts = range(max(0, end - longest), end)
        return min((written[start] + 1 for start in starts if text[start:end] in self.vocabulary.ids), default=NEVER)

    def _shorter(
        self, best: Ending, start: int, written: int, state: int, by_token: LLMatcher, by_byte: LLMatcher
    ) -> Ending | None:
        """An end of fewer tokens than ``best``, with another one at ``start``; ``written`` are those before it."""
        # Behind the token, so few may follow.
        most = best.tokens - written - 2
        if most < 0:
            return None
        left = len(best.text)
        rest = best.text[start:]
        joints = [place for place in range(start, min(left, start + _REACH) + 1) if best.costs[left - place] <= most]
        seen: set[bytes] = set()
        for token in self._tried(by_token):
            text = self.vocabulary.tokens[token]
            if rest.startswith(text):
                continue
            self._work -= 1
            after = by_byte.deep_copy()
            if after.try_consume_tokens(list(text)) != len(text):
                continue
            forced = after.compute_ff_bytes()
            after.try_consume_tokens(list(forced))
            head = best.text[:start] + text + forced
            if after.is_accepting() and (found := self._better(best, head)) is not None:
                return found
            mask = after.compute_bitmask()
            for place in joints:
                if place == left or not admits(mask, best.text[place]):
                    continue
                self._work -= 1
                if ends_with(after, best.text[place:]):
                    if (found := self._better(best, head + best.text[place:])) is not None:
                        return found
                    break
            if mask not in seen and text[0] != rest[0]:
                seen.add(mask)
                self._work -= _WORK_PER_TOKEN
                end = self.search.shortest(
                    after, text_state(text + forced, state), lambda _: True, _WORK_PER_TOKEN, _WIDTHS, rest
                )
                if end is not None and (found := self._better(best, head + end)) is not None:
                    return found
        return None

    def _better(self, best: Ending, text: bytes) -> Ending | None:
        found = self.speller.ending(text, best)
        return found if found.tokens < best.tokens else None

    def _tried(self, by_token: LLMatcher) -> list[int]:
        bits = np.frombuffer(by_token.compute_bitmask(), dtype=np.uint8)
        admitted = np.unpackbits(bits, bitorder="little")[: self.vocabulary.size].astype(np.bool_)
        lengths, signs = self.vocabulary.lengths, self.vocabulary.with_signs
        longest = self.vocabulary.longest_first
        longest = longest[admitted[longest]]
        others = longest[~signs[longest]]
        # The first few of every length.
        _, first = np.unique(-lengths[others], return_index=True)
        first_of_mine = np.repeat(first, np.diff([*first, len(others)]))
        others = others[np.arange(len(others)) - first_of_mine < _OF_A_LENGTH]
        tried = np.concatenate([longest[signs[longest]][:_WITH_SIGNS], others[:_OTHERS]])
        return [int(token) for token in tried[np.argsort(-lengths[tried], kind="stable")]]
