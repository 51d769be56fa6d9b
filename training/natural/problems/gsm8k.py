"""Rows of GSM8K as situations: the same story and the same steps, with other numbers.

A row becomes a situation if it is certain where each number of its steps comes from: the question, an earlier step, or
a small or usual constant ("twice", "a week", "a dozen").
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cdlm.training.natural.problems.situations import Situation, SituationError, Step

_MARK = re.compile(r"[\d\s+\-*/x$().,%]*=\s*\$?<<([^=<>]+)=([^<>]+)>>\$?[\d,.]*\d")
_SUM = re.compile(r"\d+(?:[-+*/]\d+)+")
_LETTERS = "abcdghkmnqrpstf"
_NUMBER = re.compile(r"(?<![\d.,/#:])\d+(?:,\d{3})*(?![\d%/]|[.,:]\d|st\b|nd\b|rd\b|th\b)")
_USUAL = frozenset((24, 30, 52, 60, 100, 365, 1000))
_SMALL = 12
_WORDS = {
    word: number
    for number, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2)
}
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b(?! times| of| hundred| thousand|-|th\b)", re.IGNORECASE)
_MOST_STEPS = 4
_SOON = 100
# A question with one of these words may mean the number without writing it.
_MEANT = {
    2: "twice|doubl|half|halves|pair|couple|both|second|two times|each other",
    3: "thrice|tripl|third|three times",
    4: "quarter|fourth|quadrupl|four times",
    5: "fifth|five times",
    7: "week|days",
    12: "dozen|month|year",
}
_YEARS = range(1900, 2101)
_SUM_IN_WORDS = re.compile(r"[=<>{}\[\]|−×÷]|\d\s*[-+*/x]\s*\$?\d")
_LABEL_START = re.compile(
    r"^(?:so|then|thus|therefore|hence|now|next|finally|first|since|and|in total|\$?\d[\d,]*)\b,?\s*", re.IGNORECASE
)
_LABEL_END = re.compile(
    r"(?:\s|\b(?:is|are|was|were|has|have|had|be|of|a|the|total|to|for|x|equals|equal)\b|[$,.:;(])+$"
)
_LONGEST_LABEL = 90  # Characters.


def situations_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Situation]:
    """Yields the situation of each row that has one and whose numbers are easily drawn anew."""
    for row in rows:
        situation = _situation(row["question"].strip(), *row["answer"].split("\n#### "))
        if situation is not None and _fits_often(situation):
            yield situation


def _fits_often(situation: Situation) -> bool:
    """Whether numbers that fit are found soon: a training may draw them thousands of times."""
    rng = random.Random(0)
    try:
        return all(situation.draw(rng, attempts=_SOON) for _ in range(3))
    except SituationError:
        return False


def _situation(question: str, solution: str, answer: str) -> Situation | None:
    names = _names(question)
    if names is None:
        return None
    known = {str(number): letter for number, letter in names.items()}
    steps: list[Step] = []
    for line in solution.split("\n"):
        end = 0
        for mark in _MARK.finditer(line):
            label = _label(line[end : mark.start()]) or _label(line[mark.end() :].split(". ")[0])
            step = _step(label, mark[1].replace(" ", ""), known)
            if step is None or mark[2] in known or not mark[2].isdigit():
                return None
            steps.append(step)
            known[mark[2]] = f"x{len(steps)}"
            end = mark.end()
        rest = line[end:]
        if "<<" in rest or (not end and re.search(r"\d", rest)):
            return None
    if not 0 < len(steps) <= _MOST_STEPS or known.get(answer) != f"x{len(steps)}":
        return None
    used = {operand for step in steps for operand in step.operands}
    names = {number: letter for number, letter in names.items() if letter in used}
    text = _WORD.sub(lambda word: _slot(word[0], names), _NUMBER.sub(lambda number: _slot(number[0], names), question))
    steps = [
        Step(_WORD.sub(lambda word: _slot(word[0], names), step.label), step.operands, step.operators) for step in steps
    ]
    return Situation(text, tuple(steps), {letter: _range(number) for number, letter in names.items()})


def _names(question: str) -> dict[int, str] | None:
    """The numbers of a question that may change, each with a letter; ``None`` if there are too many or it has marks."""
    if re.search(r"[{}\[\]|]", question):
        return None
    found = [*_NUMBER.findall(question), *_WORD.findall(question)]
    numbers = dict.fromkeys(map(_value, found))
    meant = {number for number, words in _MEANT.items() if re.search(words, question, re.IGNORECASE)}
    changing = [number for number in numbers if number > 1 and number not in {*_YEARS, *_USUAL, *meant}]
    return dict(zip(changing, _LETTERS, strict=False)) if 0 < len(changing) <= len(_LETTERS) else None


def _value(number: str) -> int:
    return _WORDS.get(number.lower()) or int(number.replace(",", ""))


def _slot(number: str, names: Mapping[int, str]) -> str:
    letter = names.get(_value(number))
    form = "" if number[0].isdigit() else ":word"
    return f"{{{letter}{form}}}" if letter else number


def _range(number: int) -> tuple[int, int]:
    return max(2, number // 2), max(4, number * 8 // 5)


def _step(label: str | None, expression: str, known: Mapping[str, str]) -> Step | None:
    operators = tuple(re.findall(r"[-+*/]", expression))
    if label is None or not _SUM.fullmatch(expression) or len(set(operators)) > 1 or operators.count("/") > 1:
        return None
    numbers = re.split(r"[-+*/]", expression)
    if any(number not in known and int(number) > _SMALL and int(number) not in _USUAL for number in numbers):
        return None
    return Step(label, tuple(known.get(number, number) for number in numbers), operators)


def _label(words: str) -> str | None:
    """The words beside a sum without "so" and "is"; ``None`` if there are none, or numbers among them."""
    label = words.strip(" .,;)")
    while (shorter := _LABEL_START.sub("", label)) != label:
        label = shorter
    label = _LABEL_END.sub("", label)
    if not label or len(label) > _LONGEST_LABEL or _SUM_IN_WORDS.search(label) or re.search(r"\d", label):
        return None
    return label
