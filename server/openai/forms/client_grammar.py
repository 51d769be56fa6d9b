"""Grammars as clients write them, and the same in the dialect of Lark that answers are bound by."""

import re

from llguidance.gbnf_to_lark import any_to_lark

from cdlm.model.decoding.grammar.errors import GrammarError

# Strings, regular expressions and comments of Lark, in which a sign stands for itself.
_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/')
_ESCAPE = re.compile(r"(?<!\\)\\u([0-9A-Fa-f]{4})|(?<!\\)\\U([0-9A-Fa-f]{8})")


def lark_of(text: str) -> str:
    """A grammar in GBNF, or in Lark already, as Lark.

    Raises ``GrammarError`` for what is neither, and for tokens named in a grammar: answers are text.
    """
    if "::=" in _LITERALS.sub("", text):
        try:
            text = any_to_lark(_ESCAPE.sub(_character, text))
        except RecursionError:
            raise GrammarError("its parentheses are nested too deeply") from None
        except Exception as error:
            raise GrammarError(f"as GBNF: {error}") from None
    if "<" in _LITERALS.sub("", text):
        raise GrammarError("it names tokens (<...>), which answers cannot have; describe text")
    return text


def _character(escape: re.Match[str]) -> str:
    """The character that an escape stands for; ASCII, which may mean something to a grammar, stays as it is."""
    code = int(escape[1] or escape[2], 16)
    return chr(code) if 0x80 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF else escape[0]
