"""Guesses a short text that a regular expression matches."""

import re
import string
from collections.abc import Iterator

# A whole escape, the start of a group, a class, a bound, or one character.
ATOMS = re.compile(
    r"\\[pPxuU]\{[^}]*\}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\."
    r"|\((?:\?(?:P?<[^>]*>|[^:)>]*[:>]?))?|\[\^?(?:\\.|[^\]\\])*\]|\{[0-9,]*\}|.",
    re.DOTALL,
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_PLAIN = "1aA" + string.printable
# Characters of classes that Python's ``re`` does not support.
_OF_CLASS = {"Han": "一", "N": "1", "Nd": "1", "P": ".", "S": "+", "Lu": "A", "Lt": "ǅ"}
_SETS = re.compile(r"\[|&&|--|\|\||~~")  # Classes made of classes, which Python warns of.
_MOST = 256  # Characters; longer texts do not help a search.


def character(atom: str) -> str:
    """The character that an atom stands for; empty for a class of characters."""
    if atom[0] != "\\" or len(atom) == 1:
        return atom if atom != "\\" and len(atom) == 1 else ""
    if atom[1] in "xuU" and len(atom) > 2:
        try:
            return chr(int(atom[2:].strip("{}"), 16)).encode().decode()
        except (ValueError, OverflowError):  # Not a number, or not a code point.
            return ""
    if atom[1].isalnum():
        return _CONTROLS.get(atom[1], "")
    return atom[1]


def example(expression: str) -> str:
    """A short text that ``expression`` probably matches, which the caller must check; empty if none was found."""
    try:
        return _either(iter(ATOMS.findall(expression)), 0)
    except (_TooLong, RecursionError):
        return ""


class _TooLong(Exception):
    pass


def _either(atoms: Iterator[str], depth: int) -> str:
    """The shortest of the alternatives up to the end of a group."""
    found: list[str] = []
    parts: list[str] = []
    for atom in atoms:
        if atom == ")" and depth:
            break
        if atom == "|":
            found.append("".join(parts))
            parts = []
        elif atom in "*?+" or atom[0] == "{":
            least = 1 if atom == "+" else int("0" + atom[1:].partition(",")[0].rstrip("}"))
            last = parts.pop() if parts else ""
            if len(last) * least > _MOST:
                raise _TooLong
            parts += [last * least, ""]  # The empty text absorbs a "?" or "+" after the bound.
        elif atom[0] == "(":
            parts.append("" if atom[-1] == ")" else _either(atoms, depth + 1))
        else:
            parts.append(_one(atom))
        if sum(map(len, parts)) > _MOST:
            raise _TooLong
    return min([*found, "".join(parts)], key=len)


def _one(atom: str) -> str:
    if atom in ("^", "$", r"\b", r"\B", r"\A", r"\z"):
        return ""
    if atom[:2] in (r"\p", r"\P"):
        return _OF_CLASS.get(atom[2:].strip("{}"), "a")
    if (known := character(atom)) and atom != ".":
        return known
    heads = [character(part) for part in ATOMS.findall(atom[1:-1])] if atom[0] == "[" else []
    try:
        of_class = None if _SETS.search(atom[1:]) else re.compile(atom)
    except re.error:
        of_class = None
    if of_class is None:
        return next(filter(None, heads), "")
    return next((each for each in [*_PLAIN, *heads] if each and of_class.fullmatch(each)), "")
