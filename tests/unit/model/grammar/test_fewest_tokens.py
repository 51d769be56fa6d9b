"""What is said to be the shortest answer is, by a search that leaves nothing out."""

import numpy as np
import pytest
from llguidance import LLMatcher

from cdlm.model.decoding.grammar.compiled import CompiledGrammar
from tests.support.matrix import some
from tests.unit.model.grammar.test_closing import PAIRS, VOCABULARY, grammar_of

# Texts that the search may go through, and for how many of a hundred schemas it has to be enough.
_MOST = 2_000
_DECIDED = 65


def shorter(text: str, least: int) -> bytes | None | list[bytes]:
    """An answer of fewer than ``least`` tokens, end token included, in whatever way it is cut.

    ``None`` if there is none; the texts that are left where there are too many.
    """
    written = LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\n' + text)
    level, seen = [(b"", LLMatcher(VOCABULARY.matching, written, log_level=0))], {b""}
    for length in range(least - 1):
        if accepted := [known for known, matcher in level if matcher.is_accepting()]:
            return accepted[0]
        below = []
        for known, matcher in level if length < least - 2 else []:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
            for token in bits[: VOCABULARY.size].nonzero()[0].tolist():
                after = known + VOCABULARY.tokens[token]
                if after not in seen:
                    seen.add(after)
                    copy = matcher.deep_copy()
                    assert copy.consume_token(token)
                    below.append((after, copy))
            if len(seen) > _MOST:
                return [known for known, _ in below]
        level = below
    return None


@pytest.mark.parametrize("part", some(range(5), every=5))
def test_no_answer_has_fewer_tokens(part: int) -> None:
    chosen, decided = PAIRS[part::5], 0
    for schema, _ in chosen:
        text = grammar_of(schema)
        least = CompiledGrammar(text, VOCABULARY, 2000).needed(1)
        found = shorter(text, least)
        assert not isinstance(found, bytes), (least, found, schema)
        decided += found is None
    assert 100 * decided >= _DECIDED * len(chosen)
