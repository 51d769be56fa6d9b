"""A grammar compiled for a vocabulary, within bounds of time and memory."""

from functools import cached_property

from llguidance import LLMatcher, LLParserLimits

from cdlm.model.decoding.grammar.byte_matching import BYTES
from cdlm.model.decoding.grammar.endings.detours import Detours
from cdlm.model.decoding.grammar.endings.ending import NEVER, Speller
from cdlm.model.decoding.grammar.endings.search import EndSearch
from cdlm.model.decoding.grammar.errors import GrammarError, plain_reason
from cdlm.model.decoding.grammar.json_text import OUTSIDE
from cdlm.model.decoding.grammar.literals import spelled_texts
from cdlm.model.decoding.grammar.vocabulary import Vocabulary

MAX_GRAMMAR_BYTES = 65_536

# Text that must follow without a choice. More than this at the beginning can only come of a rule that needs itself.
_MAX_FORCED_BYTES = 65_536
# An end is kept in sight when no more tokens are left than the shortest answer has, and so many more.
_CLOSING_TOKENS = 1024

# Places looked at in search of that end: a second or two at most, a few milliseconds with everyday grammars.
_WORK = 90_000
_WORK_TO_SHORTEN = 10_000
_WORK_FOR_FEWER_TOKENS = 40_000
_WIDTHS = (5, 2, 16, 1, 65, 64)

# Work, not seconds: about 20 ms of regular expressions to build, 7 ms in a step (llguidance, ParserLimits).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)

# A token that must come next may so be cut in other ways than the tokenizer's.
_UNFORCED = '%llguidance {"no_forcing": true}\n'


class CompiledGrammar:
    """May be shared by any number of answers.

    Attributes:
        vocabulary: what it was compiled for.
        json: it has JSON in it, whose numbers are kept short.
        search: looks for ends of answers.
        end: the shortest text of an answer that was found.
        least: how many tokens ``end`` has, with the end token.
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
        written = LLMatcher.grammar_from_lark(text)
        self._matcher = LLMatcher(vocabulary.matching, written, log_level=0, limits=_LIMITS)
        _check(self._matcher)
        if len(self._matcher.compute_ff_bytes()) > _MAX_FORCED_BYTES:
            raise GrammarError("it needs itself without end")
        self._matcher.compute_bitmask()
        _check(self._matcher)
        self._over_bytes = LLMatcher(BYTES, written, log_level=0, limits=_LIMITS)
        _check(self._over_bytes)
        first = self.over_bytes()
        first.try_consume_tokens(list(first.compute_ff_bytes()))
        first.compute_bitmask()
        _check(first)
        self.search = EndSearch(spelled_texts(text), vocabulary.letters, self.json)
        end = self.search.shortest(
            self._over_bytes, OUTSIDE, lambda found: vocabulary.count(found) < max_tokens, _WORK, _WIDTHS
        )
        if end is None and self.search.exhausted:
            raise GrammarError("no answer that ends was found: it needs itself without end, or is too complex")
        if end is None:
            raise GrammarError(f"no answer of at most {max_tokens} tokens was found that ends")
        self._text = text
        self.end = self.search.shortened(self._over_bytes, OUTSIDE, end, _WORK_TO_SHORTEN)
        self.least = Speller(vocabulary, []).ending(self.end).tokens + 1
        self.horizon = self.least + _CLOSING_TOKENS
        if (needed := self.needed(max_tokens)) > NEVER:
            raise GrammarError("no answer was found that ends and that the model's tokens can write")
        if needed > max_tokens:
            raise GrammarError(
                f"no answer of at most {max_tokens} tokens was found that ends; "
                f"the shortest found has {needed}, its end token included"
            )

    def ending(self, limit: int) -> bytes:
        """A text that is an answer: ``end``, unless one with fewer tokens was found and ``limit`` tokens need it.

        The first time it takes up to a second or two to look for that one.
        """
        return self.end if self.least <= limit else self._fewest[0]

    def needed(self, limit: int) -> int:
        """How many tokens ``ending`` has, the end token included."""
        return self.least if self.least <= limit else self._fewest[1]

    def knows(self, limit: int) -> bool:
        """Whether ``ending`` and ``needed`` are at hand."""
        return self.least <= limit or "_fewest" in self.__dict__

    @cached_property
    def _fewest(self) -> tuple[bytes, int]:
        written = LLMatcher.grammar_from_lark(_UNFORCED + self._text)
        by_token = LLMatcher(self.vocabulary.matching, written, log_level=0, limits=_LIMITS)
        speller = Speller(self.vocabulary, [])
        found = Detours(self.vocabulary, self.search, speller, by_token, self._over_bytes).fewest(
            self.end, _WORK_FOR_FEWER_TOKENS
        )
        return found.text, found.tokens + 1

    def over_bytes(self) -> LLMatcher:
        """A matcher over bytes that has seen nothing yet."""
        return self._over_bytes.deep_copy()

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
