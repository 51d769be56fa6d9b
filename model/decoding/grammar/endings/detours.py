"""Finds ends of an answer with fewer tokens than the shortest text has."""

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from cdlm.model.decoding.grammar.byte_matching import ends_with
from cdlm.model.decoding.grammar.endings.ending import NEVER, Ending, Speller
from cdlm.model.decoding.grammar.endings.search import EndSearch
from cdlm.model.decoding.grammar.json_text import OUTSIDE, text_state
from cdlm.model.decoding.grammar.vocabulary import Vocabulary

# Tokens tried per place and token length: of tokens with JSON punctuation, and of the others.
_WITH_SIGNS, _OTHERS = 32, 6

# After a replaced token the old text is rejoined within _REACH bytes, at no more than _JOINTS places, of which the
# first _HEAD bytes are compared first; else a search visits this many states.
_REACH, _JOINTS, _HEAD = 48, 8, 16
_WORK_PER_BRANCH = 40
_WIDTHS = (2, 1)


@dataclass(slots=True)
class Detours:
    """Shortens an end, counted in tokens, by replacing parts of it with other admitted tokens.

    Attributes:
        search: the grammar's ``EndSearch``.
        speller: counts the tokens of a text.
        by_token: a matcher over the vocabulary at the start of the grammar, without forced tokens.
        by_byte: a matcher over bytes at the start of the grammar.
    """

    vocabulary: Vocabulary
    search: EndSearch
    speller: Speller
    by_token: LLMatcher
    by_byte: LLMatcher
    _work: int = 0

    def fewest(self, text: bytes, work: int) -> Ending:
        """The end with the fewest tokens found from ``text``, itself an end, in at most ``work`` states."""
        self._work, best = work, self.speller.ending(text)
        before, everywhere = NEVER, False
        while self._work > 0 and (best.tokens < before or not everywhere):
            # Token borders of the known text first: they are enough in most cases.
            everywhere = best.tokens == before
            before = best.tokens
            best = self._passed(best, everywhere=everywhere)
        return best

    def _passed(self, best: Ending, *, everywhere: bool) -> Ending:
        start, written, state = 0, [0], OUTSIDE
        by_token, by_byte = self.by_token.deep_copy(), self.by_byte.deep_copy()
        while start < len(best.text) and self._work > 0:
            if everywhere or written[start] + best.costs[len(best.text) - start] == best.tokens:
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
        """The fewest tokens that write the first ``end`` bytes; ``written`` has that number for shorter prefixes."""
        longest = self.vocabulary.longest
        starts = range(max(0, end - longest), end)
        return min((written[start] + 1 for start in starts if text[start:end] in self.vocabulary.ids), default=NEVER)

    def _shorter(
        self, best: Ending, start: int, written: int, state: int, by_token: LLMatcher, by_byte: LLMatcher
    ) -> Ending | None:
        """An end with fewer tokens than ``best`` and another token at byte ``start``; ``written`` tokens precede it."""
        most = best.tokens - written - 1
        left, rest = len(best.text), best.text[start:]
        # Where the old text may continue: after as many bytes as the token has, or at the start of another part.
        near = [place for place in range(start, min(left, start + _REACH)) if best.costs[left - place] < most]
        joints = [place for place in near if not chr(best.text[place]).isalnum()][:_JOINTS]
        seen: set[bytes] = set()
        for token in self._tried(by_token) if most > 0 else []:
            text = self.vocabulary.tokens[token]
            if rest.startswith(text):
                continue
            self._work -= 1
            after = by_byte.deep_copy()
            after.try_consume_tokens(list(text))
            same = start + len(text)
            ends = [best.text[place:] for place in ([same, *joints] if same in near else joints)]
            ends = [text + end for end in ends if self._joins(after, end)]
            if forced := after.compute_ff_bytes():
                after.try_consume_tokens(list(forced))
                text += forced
                ends += [text + best.text[place:] for place in joints if self._joins(after, best.text[place:])]
            if after.is_accepting():
                ends.append(text)
            # Inside a string, most tokens lead to the same state.
            elif text[0] != rest[0] and (state == OUTSIDE or len(text) == 1 or self.vocabulary.with_signs[token]):
                mask = after.compute_bitmask()
                ends += [] if mask in seen else self._branch(after, text, state, rest)
                seen.add(mask)
            for end in ends:
                if self.speller.ending(end, best).tokens <= most:
                    return self.speller.ending(best.text[:start] + end, best)
        return None

    def _branch(self, matcher: LLMatcher, text: bytes, state: int, rest: bytes) -> list[bytes]:
        """One end that begins with ``text``, after which ``matcher`` stands; none if a short search fails."""
        self._work -= _WORK_PER_BRANCH
        state = text_state(text, state)
        found = self.search.shortest(matcher, state, lambda _: True, _WORK_PER_BRANCH, _WIDTHS, rest)
        return [] if found is None else [text + found]

    def _joins(self, matcher: LLMatcher, end: bytes) -> bool:
        """Whether the grammar accepts ``end`` from the state of ``matcher``."""
        head = list(end[:_HEAD])
        if matcher.validate_tokens(head) < len(head):
            return False
        self._work -= 1 + (len(end) >> 5)
        return ends_with(matcher, end)

    def _tried(self, by_token: LLMatcher) -> list[int]:
        bits = np.frombuffer(by_token.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[: self.vocabulary.size].astype(np.bool_)
        lengths, signs = self.vocabulary.lengths, self.vocabulary.with_signs
        admitted = self.vocabulary.longest_first[mask[self.vocabulary.longest_first]]
        tried = np.concatenate(
            [
                _of_each_length(admitted[signs[admitted]], lengths, _WITH_SIGNS),
                _of_each_length(admitted[~signs[admitted]], lengths, _OTHERS),
            ]
        )
        return [int(token) for token in tried[np.argsort(-lengths[tried], kind="stable")]]


def _of_each_length(tokens: NDArray[np.int64], lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The first ``most`` of ``tokens`` (sorted longest first) of each length."""
    _, first = np.unique(-lengths[tokens], return_index=True)
    started = np.repeat(first, np.diff([*first, len(tokens)]))
    return tokens[np.arange(len(tokens)) - started < most]
