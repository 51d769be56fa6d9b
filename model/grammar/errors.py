"""What can be wrong with a grammar."""

import re

# What the compiler puts around its reasons: where in its own text, excerpts of it, and its own options.
_EXCERPT = re.compile(r"\n\s+\d+ \|.*|\n<.*", re.DOTALL)
_PLACE = re.compile(r"^(at )?\d+\(\d+\): ")
_CHANGED = (
    (re.compile(r"^failed to compile JSON schema: "), ""),
    (re.compile(r"oneOf constraints are not supported.*", re.DOTALL), "alternatives of oneOf must exclude each other"),
    (re.compile(r" \(in regex\)"), ""),
    (re.compile(r"Unsatisfiable schema: Regex is empty.*", re.DOTALL), "no text has the pattern, format and length"),
    (re.compile(r"Resource '(.*?)' is not present.*", re.DOTALL), r"the reference '\1' leads out of the schema"),
    (re.compile(r"Pointer '(.*?)' does not exist"), r"there is nothing at the reference '#\1'"),
    (re.compile(r"; following special tokens are available.*", re.DOTALL), ""),
)


class GrammarError(ValueError):
    """A grammar cannot be compiled, or cannot be followed any further; the message says why."""


def plain_reason(message: str) -> str:
    """What a message of the compiler says about the grammar, in one line."""
    reason = _PLACE.sub("", _EXCERPT.sub("", message))
    for pattern, text in _CHANGED:
        reason = pattern.sub(text, reason)
    return " ".join(reason.split())[:300]
