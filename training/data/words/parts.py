"""What word problems are made of: people, things, and a solution that ends with the answer."""

import re
from collections.abc import Sequence

from cdlm.training.data.problem import Problem

NAMES = (
    "Tom", "Anna", "Ben", "Mia", "Sam", "Lily", "Max", "Emma", "Leo", "Nora", "Jack", "Ruby", "Omar", "Zoe",
    "Paul", "Ella", "Ravi", "Kate", "Luis", "Maya", "Adam", "Iris", "Noah", "Sara", "Hugo", "Lena", "Carl",
    "Rosa", "Finn", "Tara", "Eric", "Judy",
)  # fmt: skip
THINGS = (
    "apples", "marbles", "stickers", "cards", "books", "pencils", "coins", "shells", "stamps", "cookies",
    "oranges", "beads", "eggs", "flowers", "toys", "balloons", "candies", "buttons", "rocks", "peaches",
)  # fmt: skip
GOODS = (
    "pen", "notebook", "ball", "hat", "mug", "lamp", "cake", "shirt", "puzzle", "kite", "bag", "scarf",
)  # fmt: skip

_ANSWER = re.compile(r"answer is \$?(-?[\d,]+)")


def extract_answer(text: str) -> str | None:
    """The number stated last as the answer, without commas; ``None`` when there is none."""
    found = _ANSWER.findall(text)
    return found[-1].replace(",", "") if found else None


def word_problem(prompt: str, lines: Sequence[str], answer: int) -> Problem:
    """A problem with its worked solution, a step a line."""
    return Problem("words", prompt, "\n".join((*lines, f"The answer is {answer}.")), str(answer))
