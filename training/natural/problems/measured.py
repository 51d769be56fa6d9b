"""The test problems of the task adapter, and the check of answers.

No training row has their situations, functions or wordings.
"""

import random
import re

from cdlm.training.data.mixture import EvaluationSplit
from cdlm.training.data.problem import Problem
from cdlm.training.natural.problems import requests, situations
from cdlm.training.sandbox import passes

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_STATED = re.compile(rf"answer is:?\s*\**\$?\s*({_NUMBER})", re.IGNORECASE)
_TYPES = "from typing import *\n"  # HumanEval's signatures use them, and an answer often repeats only the signature.


def measured_words(count: int, seed: int | str, split: EvaluationSplit = "held_out") -> list[Problem]:
    """``count`` different word problems of situations that no training row has, the same for the same seed."""
    rng = random.Random(f"{split}/words/{seed}")
    found: dict[str, Problem] = {}
    kinds = situations.read_situations(situations.MEASURED[split])
    order: list[situations.Situation] = []
    while len(found) < count:  # Every situation once before one comes again.
        order = order or rng.sample(kinds, len(kinds))
        problem = order.pop().draw(rng)
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def held_out_functions(count: int, seed: int | str) -> list[Problem]:
    """Requests for functions that no training row asks for, in wordings of their own; at most all there are."""
    kinds = requests.read_requests(requests.HELD_OUT)
    return requests.all_problems(kinds, requests.HELD_OUT_WORDINGS, f"held_out/{seed}")[:count]


def stated_number(text: str) -> float | None:
    """The number stated last as the answer, else the last number of the text; ``None`` where there is none."""
    found = _STATED.findall(text) or re.findall(_NUMBER, text)
    return float(found[-1].replace(",", "")) if found else None


def solves(problem: Problem, text: str, *, timeout_s: float = 10.0) -> bool:
    """Words: the answer's number is the true one. Functions: the code in the answer passes its assertions."""
    if problem.task == "words":
        return stated_number(text) == float(problem.check)
    return passes(_TYPES + requests.code_of(text), problem.check, timeout_s=timeout_s)
