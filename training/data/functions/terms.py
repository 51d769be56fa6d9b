"""Conditions on numbers and changes of numbers, each as English, as a name part and as code."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """A condition or change of a number, in English (``phrase``, with ``{noun}``) and in code (``{x}`` is the number).

    ``pivot`` is the constant in the code, 0 if there is none. ``code`` is empty for "no condition".
    """

    phrase: str
    tag: str
    code: str
    pivot: int = 0

    def plural(self) -> str:
        return self.phrase.format(noun="numbers")

    def singular(self) -> str:
        return self.phrase.format(noun="number")

    def on(self, variable: str) -> str:
        return self.code.format(x=variable)


EVERYTHING = Term("{noun}", "all", "")
UNCHANGED = Term("", "", "{x}")

_PARITIES = (Term("even {noun}", "even", "{x} % 2 == 0"), Term("odd {noun}", "odd", "{x} % 2 == 1"))
_SIGNS = (
    Term("positive {noun}", "positive", "{x} > 0"),
    Term("negative {noun}", "negative", "{x} < 0"),
    Term("nonzero {noun}", "nonzero", "{x} != 0"),
)
_BOUNDS = (
    ("{noun} greater than @", "above_@", "{x} > @"),
    ("{noun} less than @", "below_@", "{x} < @"),
    ("{noun} of at least @", "from_@", "{x} >= @"),
    ("{noun} of at most @", "to_@", "{x} <= @"),
    ("{noun} not equal to @", "not_@", "{x} != @"),
)
_DIVISORS = (
    ("{noun} divisible by @", "multiple_@", "{x} % @ == 0"),
    ("{noun} not divisible by @", "not_multiple_@", "{x} % @ != 0"),
)
_CHANGES = (
    ("squared", "squared", "{x} * {x}"),
    ("cubed", "cubed", "{x} ** 3"),
    ("doubled", "doubled", "{x} * 2"),
    ("negated", "negated", "-{x}"),
    ("multiplied by @", "times_@", "{x} * @"),
    ("increased by @", "plus_@", "{x} + @"),
    ("decreased by @", "minus_@", "{x} - @"),
    ("divided by @ rounding down", "divided_@", "{x} // @"),
    ("taken modulo @", "mod_@", "{x} % @"),
)
_ABSOLUTE = Term("made absolute", "absolute", "abs({x})")


def _fill(pattern: tuple[str, str, str], constant: str) -> Term:
    phrase, tag, code = (part.replace("@", constant) for part in pattern)
    pivot = int(constant) if constant.isdigit() and "@" in pattern[2] else 0
    return Term(phrase, tag, code, pivot)


def draw_condition(rng: random.Random, *, signed: bool = True, symbol: str = "") -> Term:
    """Draws a condition on a number. ``symbol`` is a parameter that replaces the constant."""
    if symbol:
        return _fill(rng.choice(_BOUNDS + _DIVISORS), symbol)
    constant = str(rng.randint(2, 20))
    chance = rng.random()
    if chance < 0.25:
        return rng.choice(_PARITIES)
    if chance < 0.4 and signed:
        return rng.choice(_SIGNS)
    if chance < 0.75:
        return _fill(rng.choice(_BOUNDS + _DIVISORS), constant)
    first, second = rng.choice(_PARITIES), _fill(rng.choice(_BOUNDS), constant)
    phrase = second.phrase.replace("{noun}", first.phrase)
    return Term(phrase, f"{first.tag}_{second.tag}", f"{first.code} and {second.code}", second.pivot)


def draw_change(rng: random.Random, *, signed: bool = True) -> Term:
    """Draws a change of a number, for example "plus 3"."""
    if signed and rng.random() < 0.1:
        return _ABSOLUTE
    return _fill(rng.choice(_CHANGES), str(rng.randint(2, 20)))
