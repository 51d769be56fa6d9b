"""A grammar compiled for a vocabulary, with limits on time and memory."""

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

# Bytes that an answer must begin with. A grammar with more has a rule that recurses without end.
_MAX_FORCED_BYTES = 65_536
# An end is kept in reach once the tokens left are at most those of the shortest answer plus this number.
_CLOSING_TOKENS = 1024

# States that the search for that end may visit: a few milliseconds with everyday grammars, two seconds at most.
_WORK = 90_000
_WORK_TO_SHORTEN = 10_000
_WORK_FOR_FEWER_TOKENS = 40_000
_WIDTHS = (5, 2, 16, 1, 65, 64)

# Counts work: about 20 ms to build regular expressions and 7 ms per step (llguidance, ParserLimits).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)

# Without this, llguidance admits forced text only as the tokenizer would tokenize it.
_UNFORCED = '%llguidance {"no_forcing": true}\n'


class CompiledGrammar:
    """A grammar compiled for one vocabulary; immutable for its users, who may share it between answers.

    Attributes:
        vocabulary: the vocabulary it was compiled for.
        json: whether it contains JSON, whose numbers are kept short.
        search: finds texts that end an answer.
        end: the shortest complete answer found, in bytes.
        least: tokens of ``end``, end token included.
        horizon: with fewer tokens left than this, a token is written only if the answer can still be ended after it.
    """

    def __init__(self, text: str, vocabulary: Vocabulary, max_tokens: int) -> None:
        """Compiles ``text``, a grammar in llguidance's Lark dialect, for answers of at most ``max_tokens`` tokens.

        Raises:
            GrammarError: the grammar is invalid, too large or too complex, or no complete answer within ``max_tokens``
                was found.
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
        """A complete answer, in bytes: ``end`` if it fits into ``limit`` tokens, else the one with the fewest tokens.

        The first search for the latter takes up to two seconds.
        """
        return self.end if self.least <= limit else self._fewest[0]

    def needed(self, limit: int) -> int:
        """Tokens of ``ending(limit)``, end token included."""
        return self.least if self.least <= limit else self._fewest[1]

    def knows(self, limit: int) -> bool:
        """Whether ``ending(limit)`` and ``needed(limit)`` return without a search."""
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
        """A new matcher over bytes, at the start of the grammar."""
        return self._over_bytes.deep_copy()

    def fresh(self) -> LLMatcher:
        """A new matcher over the vocabulary, at the start of the grammar."""
        return self._matcher.deep_copy()


def check_size(text: str) -> None:
    """Raises ``GrammarError`` for a grammar text that is too large to compile."""
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise GrammarError(f"larger than {MAX_GRAMMAR_BYTES} bytes")


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(plain_reason(matcher.get_error()))
