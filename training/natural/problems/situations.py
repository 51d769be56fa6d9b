"""Situations of word problems: a line of text with slots, and the steps that solve it.

A line is ``text => label: step; label: step @ a=10..60``. In the text ``{a}`` is a number, ``{things}`` a word of
``lexicon.py``, and ``[one|other]`` a choice. ``{k:times}`` writes 2 as ``twice``, ``{k:part}`` 2 as
``half``, ``{k:word}`` 2 as ``two``; a small number without a form is a word now and then. A step is numbers, letters,
``x1`` (the first step's result) and so on with one kind of operator between them; the last step is the answer. What
follows ``@`` are ranges that differ from the usual ones of the letters.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from cdlm.training.data.mixture import EvaluationSplit
from cdlm.training.data.problem import Problem
from cdlm.training.natural.problems.arithmetic import result_of, worked
from cdlm.training.natural.problems.lexicon import draw_words

# The files whose situations are for measuring only.
MEASURED: Mapping[EvaluationSplit, str] = {"held_out": "held_out.txt", "development": "development.txt"}
_RANGES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys("abcd", (3, 99)),
    **dict.fromkeys("gh", (100, 900)),
    **dict.fromkeys("kmn", (2, 12)),
    **dict.fromkeys("qr", (2, 15)),
    **dict.fromkeys("pst", (2, 30)),
    **dict.fromkeys("uvw", (2, 60)),  # For numbers that are not needed.
    "f": (2, 5),
}
_FOLDER = files("cdlm.training.natural").joinpath("situations")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth", 8: "an eighth", 10: "a tenth"}
_WORD_SHARE = 0.25
_LARGEST = 9999
_ATTEMPTS = 4000
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)(?::(\w+))?\}")
_OPERATOR = re.compile(r" ([-+*/]) ")


class SituationError(ValueError):
    """A line of a file of situations is not one; the message quotes it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A label, and operands (numbers, letters, ``x1``) with the operators between them."""

    label: str
    operands: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """One line: the text of the problem, its steps, and the range of every letter."""

    text: str
    steps: tuple[Step, ...]
    ranges: Mapping[str, tuple[int, int]]

    def draw(self, rng: random.Random, attempts: int = _ATTEMPTS) -> Problem:
        """A problem with fresh numbers, people and things; they are drawn ``attempts`` times at most.

        Raises:
            SituationError: no numbers in the ranges give whole, small and positive results.
        """
        parts = [letter for letter, form in _SLOT.findall(self.text) if form == "part"]
        for _ in range(attempts):
            numbers = {letter: rng.randint(*bounds) for letter, bounds in self.ranges.items()}
            results = self._results(numbers)
            if results is not None and all(numbers[letter] in _PARTS for letter in parts):
                break
        else:
            raise SituationError(f"no numbers fit: {self.text}")
        words = draw_words(rng)
        values = {**numbers, **{f"x{i}": result for i, result in enumerate(results, 1)}}
        prompt = _fill(_choose(self.text, rng), words, numbers, rng)
        lines = [_line(step, values, words) for step in self.steps]
        answer = str(results[-1])
        return Problem("words", prompt, "\n".join((*lines, f"The answer is {answer}.")), answer)

    def _results(self, numbers: Mapping[str, int]) -> list[int] | None:
        values = dict(numbers)
        if len(set(numbers.values())) < len(numbers) and len(numbers) > 1 and sum(numbers.values()) % 3:
            return None  # Equal numbers hide which of them was meant; a few are kept.
        results: list[int] = []
        for step in self.steps:
            total = _value(step.operands[0], values)
            for operator, operand in zip(step.operators, step.operands[1:], strict=True):
                result = result_of(total, operator, _value(operand, values))
                if result is None or not 0 < result <= _LARGEST:
                    return None
                total = result
            results.append(total)
            values[f"x{len(results)}"] = total
        return results


def parse(line: str) -> Situation:
    """Reads one line.

    Raises:
        SituationError: a part is missing, or a step uses a letter or a result that the line does not have.
    """
    text, arrow, rest = line.partition(" => ")
    steps_text, _, ranges_text = rest.partition(" @ ")
    if not arrow:
        raise SituationError(f"no ' => ' between text and steps: {line}")
    steps = tuple(_parse_step(part, line) for part in steps_text.split(";"))
    letters = {name for name, _ in _SLOT.findall(text) if name in _RANGES}
    ranges = {letter: _RANGES[letter] for letter in sorted(letters)}
    for part in filter(None, ranges_text.split(",")):
        match = re.fullmatch(r" *([a-w])=(\d+)\.\.(\d+) *", part)
        if match is None or match[1] not in letters or int(match[2]) > int(match[3]):
            raise SituationError(f"{part!r} is not the range of a letter of the text: {line}")
        ranges[match[1]] = (int(match[2]), int(match[3]))
    for number, step in enumerate(steps, 1):
        known = {*letters, *(f"x{earlier}" for earlier in range(1, number))}
        unknown = [operand for operand in step.operands if not operand.isdigit() and operand not in known]
        if unknown:
            raise SituationError(f"step {number} uses {', '.join(unknown)}: {line}")
    return Situation(text.strip(), steps, ranges)


def read_situations(name: str) -> list[Situation]:
    """The situations of a file in ``training/natural/situations``; lines that begin with # are comments."""
    text = _FOLDER.joinpath(name).read_text()
    return [parse(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def training_files() -> list[str]:
    """The names of the files of situations to train on: ``short.txt``, ``wide/sports.txt`` and so on."""
    nested = [f"{item.name}/{file.name}" for item in _FOLDER.iterdir() if item.is_dir() for file in item.iterdir()]
    names = nested + [item.name for item in _FOLDER.iterdir() if item.is_file()]
    return sorted(name for name in names if name.endswith(".txt") and name not in MEASURED.values())


def _parse_step(text: str, line: str) -> Step:
    label, colon, expression = text.strip().partition(": ")
    pieces = _OPERATOR.split(expression.strip())
    operands, operators = tuple(pieces[::2]), tuple(pieces[1::2])
    if not colon or not operators or not all(re.fullmatch(r"\w+", operand) for operand in operands):
        raise SituationError(f"{text!r} is not 'label: number operator number': {line}")
    return Step(label, operands, operators)


def _line(step: Step, values: Mapping[str, int], words: Mapping[str, str]) -> str:
    """The label and the worked step; three operands are worked one after the other."""
    total, parts = _value(step.operands[0], values), []
    for operator, operand in zip(step.operators, step.operands[1:], strict=True):
        other = _value(operand, values)
        parts.append(worked(total, operator, other))
        total = result_of(total, operator, other) or 0
    label = _fill(step.label, words, {name: value for name, value in values.items() if name in _RANGES}, None)
    return f"{label[0].upper()}{label[1:]}: {', '.join(parts)}."


def _value(operand: str, values: Mapping[str, int]) -> int:
    return int(operand) if operand.isdigit() else values[operand]


def _choose(text: str, rng: random.Random) -> str:
    while _CHOICE.search(text):
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text


def _fill(text: str, words: Mapping[str, str], numbers: Mapping[str, int], rng: random.Random | None) -> str:
    def replace(match: "re.Match[str]") -> str:
        name, form = match[1], match[2]
        if name not in numbers:
            if name not in words or form:
                raise SituationError(f"{match[0]} is no slot: {text}")
            return words[name]
        number = numbers[name]
        # A price stays in digits: "$five" is not written.
        spelled = rng is not None and form is None and number < len(_WORDS) and rng.random() < _WORD_SHARE
        if form == "word" or (spelled and text[match.start() - 1 : match.start()] != "$"):
            return _WORDS[number] if number < len(_WORDS) else str(number)
        forms = {"times": _TIMES, "part": _PARTS}.get(form or "", {})
        return forms.get(number, f"{number} times" if form == "times" else str(number))

    filled = _SLOT.sub(replace, text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), filled)


def draw(situations: Sequence[Situation], rng: random.Random) -> Problem:
    """Draws a problem of a random situation."""
    return rng.choice(situations).draw(rng)
