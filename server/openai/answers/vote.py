"""Counts answers by the part of each that a pattern finds; the earliest of the most frequent wins."""

import time
from collections import Counter
from collections.abc import Sequence

import re2

from cdlm.server.errors import invalid
from cdlm.server.openai.protocol.response import VoteResult

_LIMIT_S = 1.0
# RE2 matches in time that is linear in the text and in the size of the compiled pattern, which this bounds.
_PATTERN_BYTES = 1 << 18


class Ballot:
    """A pattern whose only group is the text that counts; of several matches in an answer, the last counts.

    Raises ``ApiError`` 400 for a pattern that RE2 refuses, or that has not exactly one group.
    """

    def __init__(self, pattern: str) -> None:
        options = re2.Options()
        options.max_mem, options.log_errors = _PATTERN_BYTES, False
        try:
            self._pattern = re2.compile(pattern, options)
        except re2.error as error:
            reason = error.args[0].decode(errors="replace")
            raise invalid(f"vote.pattern: {reason}", "vote.pattern") from None
        if self._pattern.groups != 1:
            raise invalid(f"vote.pattern must have one group, and has {self._pattern.groups}", "vote.pattern")

    def count(self, answers: Sequence[str]) -> tuple[int, VoteResult]:
        """Returns the number of the answer to return, 0 if the pattern found nothing, and the result of the vote.

        Raises ``ApiError`` 400 if that takes too long.
        """
        # One search is linear, but an answer may have many matches.
        deadline = time.monotonic() + _LIMIT_S
        found = [self._last(answer, deadline) for answer in answers]
        counts = Counter(text for text in found if text is not None)
        # Counter keeps the order in which texts came up, and of equal counts max returns the first.
        answer = max(counts, key=counts.__getitem__, default=None)
        winner = 0 if answer is None else found.index(answer)
        count = max(counts.values(), default=0)
        return winner, VoteResult(answer=answer, count=count, counts=counts, unmatched=found.count(None))

    def _last(self, answer: str, deadline: float) -> str | None:
        last: str | None = None
        for match in self._pattern.finditer(answer):
            last = match[1] if match[1] is not None else last
            if time.monotonic() > deadline:
                raise invalid("vote.pattern takes too long on these answers", "vote.pattern")
        return last
