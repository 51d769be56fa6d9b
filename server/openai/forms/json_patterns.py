"""Patterns of JSON schemas in a form that the grammar compiler keeps.

Where a class has control characters but not the quote, or not the backslash, the compiler admits that all the same, as
JSON escapes it. So such classes lose the control characters that JSON has no short escape for.
"""

import re

_LOST = "\x00-\x07\x0b\x0e-\x1f"
_CONTROLS = [chr(code) for code in (*range(8), 0x0B, *range(0x0E, 0x20))]
_CLASSES = re.compile(
    r"\\[pP](?:\{[^}]*\}|\w)|\\.|\[\^?(?:\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\]\\])*\]", re.DOTALL
)
_SETS = re.compile(r"\[|&&|--|~~|\\[pP]")


def compilable(pattern: str) -> str:
    """``pattern`` without the classes that are compiled wrongly; what it matches still is what ``pattern`` does."""
    return _CLASSES.sub(_kept, pattern)


def _kept(match: re.Match[str]) -> str:
    found = match[0]
    if found[0] == "\\" and not found.startswith((r"\P", r"\p{C", r"\pC")):
        return found
    if not _SETS.search(found[1:]) and found[0] == "[":
        try:
            single = re.compile(found)
        except re.error:  # Refused when it is compiled.
            return found
        if (single.match('"') and single.match("\\")) or not any(map(single.match, _CONTROLS)):
            return found
        if found.startswith("[^") and found[2] != "-":
            return f"[^{_LOST}{found[2:]}"
    return f"[{found}&&[^{_LOST}]]"
