"""Rewrites patterns of JSON schemas that the grammar compiler gets wrong.

If a class has control characters but not the quote or the backslash, the compiler wrongly admits these. Such classes
lose the control characters without a short JSON escape.
"""

import re

_LOST = "\x00-\x07\x0b\x0e-\x1f"
_CONTROLS = [chr(code) for code in (*range(8), 0x0B, *range(0x0E, 0x20))]
_CLASSES = re.compile(
    r"\\[pP](?:\{[^}]*\}|\w)|\\.|\[\^?(?:\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\]\\])*\]", re.DOTALL
)
_SETS = re.compile(r"\[|&&|--|~~|\\[pP]")


def compilable(pattern: str) -> str:
    """Rewrites ``pattern``; the result matches only text that ``pattern`` matches."""
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
