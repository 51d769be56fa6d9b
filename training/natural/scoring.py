"""Whether an answer in natural language is right: the number it ends with, or the code it shows."""

import re

from cdlm.training.data.problem import Problem
from cdlm.training.natural.requests import code_of
from cdlm.training.sandbox import passes

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_STATED = re.compile(rf"answer is:?\s*\**\$?\s*({_NUMBER})", re.IGNORECASE)
_TYPES = "from typing import *\n"  # HumanEval's signatures use them, and an answer often repeats only the signature.


def stated_number(text: str) -> float | None:
    """The number stated last as the answer, else the last number of the text; ``None`` where there is none."""
    found = _STATED.findall(text) or re.findall(_NUMBER, text)
    return float(found[-1].replace(",", "")) if found else None


def solves(problem: Problem, text: str, *, timeout_s: float = 10.0) -> bool:
    """Words: the answer's number is the true one. Functions: the code in the answer passes its assertions."""
    if problem.task == "words":
        return stated_number(text) == float(problem.check)
    return passes(_TYPES + code_of(text), problem.check, timeout_s=timeout_s)
