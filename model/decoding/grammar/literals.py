"""Finds literal texts in a grammar's regular expressions, which its answers probably contain."""

import json
import re
from collections.abc import Iterator

from cdlm.model.decoding.grammar.examples import ATOMS, character, example

_MOST = 48
_LONGEST = 64

_IN_JSON = re.compile(r'"pattern": ("(?:\\.|[^"\\])*")|"multipleOf": ([0-9.]+)')
_IN_LARK = re.compile(r"/((?:\\.|[^/\\\n])+)/")
_STRINGS = re.compile(r'"(?:\\.|[^"\\\n])*"')
_CLASSES = re.compile(r"\\.|\[\^?(?:\\.|[^\]\\])*\]", re.DOTALL)
_OPEN = re.compile(r"[*+]|,\}|^(?!\^)|(?<!\$)$", re.DOTALL)
_RANGE = re.compile(r"(?:\\.|[^\\])-(?:\\.|[^\\])", re.DOTALL)


def spelled_texts(grammar: str) -> list[bytes]:
    """Texts from the regular expressions of a Lark grammar, in their order; those of JSON schemas escaped as in JSON.

    Per expression: a short text that it matches, and its runs of literal characters.
    """
    found: list[bytes] = []
    # Without duplicates: after each JSON string, the search starts from the first literal again.
    for pattern, multiple in dict.fromkeys(match.groups() for match in _IN_JSON.finditer(grammar)):
        if multiple:
            found.append(multiple.encode())
        else:
            found += [json.dumps(run, ensure_ascii=False)[1:-1].encode() for run in _spelled(json.loads(pattern))]
    for match in _IN_LARK.finditer(_STRINGS.sub("", grammar)):
        found += [run.encode() for run in _spelled(match[1])]
    return [text for text in found if len(text) <= _LONGEST][:_MOST]


def _spelled(expression: str) -> Iterator[str]:
    whole = example(expression)
    # Without an unbounded repetition, every path ends by itself.
    runs = list(_runs(expression)) if not whole or _OPEN.search(_CLASSES.sub("", expression)) else []
    yield from ([whole] if whole and whole not in runs else [])
    yield from runs


def _runs(expression: str) -> Iterator[str]:
    run = ""
    for atom in ATOMS.findall(expression):
        if atom[0] in "*+?{" and run:  # A repetition applies to the last character only.
            yield from (part for part in (run[:-1], run[-1]) if part)
            run = ""
        elif atom[0] == "[":
            yield from ([run] if run else [])
            run = ""
            listed = _RANGE.sub("", atom[1:-1].removeprefix("^"))
            yield from filter(None, map(character, ATOMS.findall(listed)))
        elif (char := character(atom)) and atom not in ".^$|()*+?" and atom[0] not in "({":
            run += char
        elif run:
            yield run
            run = ""
    if run:
        yield run
