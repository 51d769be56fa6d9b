"""A grammar compiled for a vocabulary, within bounds of time and memory."""

from llguidance import LLMatcher, LLParserLimits

from model.grammar.closing import OUTSIDE, shortest_close
from model.grammar.errors import GrammarError, plain_reason
from model.grammar.vocabulary import Vocabulary

MAX_GRAMMAR_BYTES = 65_536

# Text that must follow without a choice. More than this at the beginning can only come of a rule that needs itself.
_MAX_FORCED_BYTES = 65_536
# Closing is looked after when no more tokens are left than the shortest answer has, of which so many count, and some
# more: looking takes time in proportion to both.
_LONGEST_CLOSE = 256
_CLOSING_TOKENS = 128

# Work, not seconds: about 20 ms of regular expressions to build, 7 ms in a step (llguidance, ParserLimits).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class CompiledGrammar:
    """May be shared by any number of answers.

    Attributes:
        vocabulary: what it was compiled for.
        json: it has JSON in it, whose numbers are kept short.
        horizon: with fewer tokens left than this, a token is written only if the answer can still be closed after it.
    """

    def __init__(self, text: str, vocabulary: Vocabulary, max_tokens: int) -> None:
        """Compiles ``text``, in the Lark dialect of llguidance, for answers of at most ``max_tokens``.

        Raises:
            GrammarError: it is wrong, too large or too complex, or no answer of ``max_tokens`` that ends was found.
        """
        check_size(text)
        self.vocabulary = vocabulary
        self.json = "%json" in text
        self._matcher = LLMatcher(vocabulary.matching, LLMatcher.grammar_from_lark(text), log_level=0, limits=_LIMITS)
        _check(self._matcher)
        if len(self._matcher.compute_ff_bytes()) > _MAX_FORCED_BYTES:
            raise GrammarError("it needs itself without end")
        self._matcher.compute_bitmask()
        _check(self._matcher)
        walker = self.fresh()
        close = shortest_close(walker, vocabulary, OUTSIDE, max_tokens)
        _check(walker)
        if close is None:
            raise GrammarError(f"no answer of at most {max_tokens} tokens was found that ends")
        self.horizon = min(len(close), _LONGEST_CLOSE) + _CLOSING_TOKENS

    def fresh(self) -> LLMatcher:
        """A matcher that has seen nothing yet."""
        return self._matcher.deep_copy()


def check_size(text: str) -> None:
    """Raises ``GrammarError`` for a text that is too large to be looked at."""
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise GrammarError(f"larger than {MAX_GRAMMAR_BYTES} bytes")


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(plain_reason(matcher.get_error()))
