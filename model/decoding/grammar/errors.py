"""Errors of grammars, with the compiler's messages in plain words."""

import re

# The compiler's excerpts of its own text, with line numbers.
_EXCERPT = re.compile(r"\n\s+\d+ \|.*|\n<.*", re.DOTALL)
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")
_CHANGED = (
    (re.compile(r"^failed to compile JSON schema: "), ""),
    (re.compile(r"oneOf constraints are not supported.*", re.DOTALL), "alternatives of oneOf must exclude each other"),
    (re.compile(r" \(in regex\)"), ""),
    (re.compile(r"NoExtensionBias.*", re.DOTALL), "a reference leads to itself and says nothing"),
    (
        re.compile(r"lookarounds not supported yet; Word\w* in regex (.*)", re.DOTALL),
        r"word borders (\\b and \\B) are not supported in \1",
    ),
    (
        re.compile(r"lookarounds not supported yet; \w+ in regex (.*)", re.DOTALL),
        r"^ and $ are supported only where the text begins and ends, not as in \1",
    ),
    (re.compile(r"Failed to generate regex for (integer|float) range.*", re.DOTALL), r"a bound is too large"),
    (re.compile(r"Expected (?:f64|positive integer|string|array|bool\w*) for '(.*?)', got "), r"'\1' may not be "),
    (re.compile(r"invalid multiple of.*", re.DOTALL), "multipleOf must be more than 0"),
    (re.compile(r"Invalid type: (.*)"), r"there is no type '\1'"),
    (re.compile(r"required property '(.*?)' is unsatisfiable"), r"nothing may be the required property '\1'"),
    (re.compile(r"lexer error: .*", re.DOTALL), "its expressions are too complex"),
    (re.compile(r"Unsatisfiable schema: Regex is empty.*", re.DOTALL), "no text has the pattern, format and length"),
    (re.compile(r"Unsatisfiable schema"), "no value is valid under the schema"),
    (re.compile(r"Resource '(.*?)' is not present.*", re.DOTALL), r"the reference '\1' leads out of the schema"),
    (re.compile(r"Pointer '(.*?)' does not exist"), r"there is nothing at the reference '#\1'"),
    (re.compile(r"; following special tokens are available.*", re.DOTALL), ""),
)


class GrammarError(ValueError):
    """A grammar cannot be compiled or followed; the message says why."""


def plain_reason(message: str) -> str:
    """Turns a message of the compiler into one line about the grammar."""
    reason = _PLACE.sub("", _EXCERPT.sub("", message))
    for pattern, text in _CHANGED:
        reason = pattern.sub(text, reason)
    return " ".join(reason.split())[:300]
