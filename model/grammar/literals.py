"""The texts that a grammar's regular expressions spell out, which its answers are likely to need."""

import json
import re
from collections.abc import Iterator

_MOST = 48
_LONGEST = 64

_IN_JSON = re.compile(r'"pattern": ("(?:\\.|[^"\\])*")|"multipleOf": ([0-9.]+)')
_IN_LARK = re.compile(r"/((?:\\.|[^/\\\n])+)/")
_STRINGS = re.compile(r'"(?:\\.|[^"\\\n])*"')
# An escape with what belongs to it, the head of a group, a class, a bound, or one character.
_ATOMS = re.compile(
    r"\\[pP]\{[^}]*\}|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\.|\((?:\?[^:)>]*[:>])?|\[\^?(?:\\.|[^\]\\])*\]|\{[0-9,]*\}|.",
    re.DOTALL,
)
_RANGE = re.compile(r"(?:\\.|[^\\])-(?:\\.|[^\\])", re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}


def spelled_texts(grammar: str) -> list[bytes]:
    """Literal runs of the expressions in a grammar in Lark, in their order; those of JSON as JSON writes them."""
    found: list[bytes] = []
    for match in _IN_JSON.finditer(grammar):
        if match[2]:
            found.append(match[2].encode())
        else:
            found += [json.dumps(run, ensure_ascii=False)[1:-1].encode() for run in _runs(json.loads(match[1]))]
    for match in _IN_LARK.finditer(_STRINGS.sub("", grammar)):
        found += [run.encode() for run in _runs(match[1])]
    return [text for text in found if len(text) <= _LONGEST][:_MOST]


def _runs(expression: str) -> Iterator[str]:
    run = ""
    for atom in _ATOMS.findall(expression):
        if atom[0] in "*+?{" and run:  # Of what is repeated only the last character is.
            yield from (part for part in (run[:-1], run[-1]) if part)
            run = ""
        elif atom[0] == "[":
            yield from ([run] if run else [])
            run = ""
            listed = _RANGE.sub("", atom[1:-1].removeprefix("^"))
            yield from filter(None, map(_character, _ATOMS.findall(listed)))
        elif (char := _character(atom)) and atom not in ".^$|()*+?" and atom[0] not in "({":
            run += char
        elif run:
            yield run
            run = ""
    if run:
        yield run


def _character(atom: str) -> str:
    """The character that an atom stands for; empty for a class of them."""
    if atom[0] != "\\":
        return atom if len(atom) == 1 else ""
    if atom[1] in "xu" and len(atom) > 2:
        return chr(int(atom[2:], 16)) if not 0xD800 <= int(atom[2:], 16) < 0xE000 else ""
    if atom[1].isalnum():
        return _CONTROLS.get(atom[1], "")
    return atom[1]
