"""Converts grammars of clients to llguidance's Lark dialect."""

import re

from llguidance.gbnf_to_lark import any_to_lark

from cdlm.model.decoding.grammar.errors import GrammarError

# Strings, regular expressions and comments of Lark.
_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/')
_ESCAPE = re.compile(r"(?<!\\)\\u([0-9A-Fa-f]{4})|(?<!\\)\\U([0-9A-Fa-f]{8})")


def lark_of(text: str) -> str:
    """Converts a grammar in GBNF or Lark to Lark.

    Raises ``GrammarError`` if it is neither, or if it names tokens.
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
    """Decodes an escape, unless it is ASCII, which may be syntax of the grammar."""
    code = int(escape[1] or escape[2], 16)
    return chr(code) if 0x80 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF else escape[0]
