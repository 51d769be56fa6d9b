"""What a short Python function is asked to do, and sample arguments for its parameters."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GENERIC_NAMES = ("solve", "compute", "f", "answer", "calculate")
WORDS = (
    "apple", "bee", "cat", "dog", "echo", "fish", "goat", "hello", "ice", "jam", "kite", "level", "moon",
    "noon", "orange", "pear", "queen", "red", "sun", "tree", "up", "violet", "world", "yes", "zebra", "a",
    "crab", "taxi", "menu", "rainbow",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spec:
    """A function to write: ``purpose`` completes the sentence "the function returns ...".

    ``body`` holds the lines below ``def`` without their common indentation. ``pivot`` is the constant the
    body depends on (0 if none); sample arguments are drawn around it.
    """

    name: str
    params: str
    purpose: str
    body: tuple[str, ...]
    pivot: int = 0

    @property
    def signature(self) -> str:
        return f"{self.name}({self.params})"

    @property
    def code(self) -> str:
        return "\n".join([f"def {self.signature}:", *(f"    {line}" for line in self.body)])


@dataclass(frozen=True, slots=True)
class Entry:
    """A stand-alone function; ``@`` in any field stands for one constant from ``low`` to ``high``."""

    names: tuple[str, ...]
    params: str
    purposes: tuple[str, ...]
    body: str
    low: int = 2
    high: int = 20

    def draw(self, rng: random.Random) -> Spec:
        """Fills in the constant and picks one name and one wording."""
        constant = rng.randint(self.low, self.high)
        constant_text = str(constant)
        return Spec(
            name=pick_name(rng, self.names).replace("@", constant_text),
            params=self.params,
            purpose=rng.choice(self.purposes).replace("@", constant_text),
            body=tuple(self.body.replace("@", constant_text).strip("\n").split("\n")),
            pivot=constant if "@" in self.body else 0,
        )


def pick_name(rng: random.Random, names: Sequence[str]) -> str:
    """One of ``names``, or now and then a name that says nothing about the content."""
    return rng.choice(GENERIC_NAMES) if rng.random() < 0.12 else rng.choice(names)


def loop_body(test: str, action: str) -> tuple[str, ...]:
    """The lines below the head of a loop: ``action``, under ``test`` unless that is empty."""
    return (f"    if {test}:", f"        {action}") if test else (f"    {action}",)


def _number(rng: random.Random, pivot: int) -> int:
    if pivot and rng.random() < 0.5:
        return pivot * rng.randint(-1, 3) if rng.random() < 0.6 else pivot + rng.randint(-1, 1)
    return rng.randint(-12, 30)


def _natural(rng: random.Random, pivot: int) -> int:
    return pivot + rng.randint(0, 1) if rng.random() < 0.3 else rng.randint(1, max(30, 2 * pivot))


def _numbers(rng: random.Random, pivot: int) -> list[int]:
    values = [_number(rng, pivot) for _ in range(rng.randint(1, 7))]
    if rng.random() < 0.4:
        values.append(rng.choice(values))
    if rng.random() < 0.2:
        values.sort()
    return values


def _word(rng: random.Random, _pivot: int) -> str:
    return rng.choice(WORDS)


def _words(rng: random.Random, _pivot: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(rng.randint(2, 7))]


def _text(rng: random.Random, _pivot: int) -> str:
    parts = [rng.choice(WORDS) for _ in range(rng.randint(1, 6))]
    for i, part in enumerate(parts):
        chance = rng.random()
        if chance < 0.25:
            parts[i] = part.capitalize()
        elif chance < 0.4:
            parts[i] = str(rng.randint(0, 99))
    return " ".join(parts)


def _table(rng: random.Random, pivot: int) -> dict[str, int]:
    return {rng.choice(WORDS): _number(rng, pivot) for _ in range(rng.randint(1, 5))}


_SAMPLERS: dict[str, Callable[[random.Random, int], object]] = {
    "nums": _numbers,
    "other": _numbers,
    "words": _words,
    "text": _text,
    "word": _word,
    "letter": lambda rng, _: rng.choice("aeorst"),
    "table": _table,
    "extra": _table,
    "n": _natural,
    "x": _number,
    "y": _number,
    "z": _number,
    "a": lambda rng, _: rng.randint(2, 24),
    "b": lambda rng, _: rng.randint(2, 24),
    "k": lambda rng, _: rng.randint(2, 5),
}
_EDGES: dict[str, object] = {
    "nums": [], "other": [], "words": [], "text": "", "word": "", "table": {}, "extra": {}, "n": 0, "x": 0,
}  # fmt: skip


def sample_arguments(rng: random.Random, spec: Spec) -> tuple[object, ...]:
    """Ordinary arguments for ``spec``. Raises ``KeyError`` for a parameter name without a sampler."""
    return tuple(_SAMPLERS[param](rng, spec.pivot) for param in spec.params.split(", "))


def edge_arguments(rng: random.Random, spec: Spec) -> tuple[object, ...]:
    """Arguments with the first parameter empty or zero where it can be."""
    first, *rest = sample_arguments(rng, spec)
    return (_EDGES.get(spec.params.split(", ")[0], first), *rest)
