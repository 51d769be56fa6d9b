"""The problems that a task adapter is measured on: no training row has their situations, functions or wordings."""

import random

from cdlm.training.data.problem import Problem
from cdlm.training.natural import requests, situations

HELD_OUT_SITUATIONS = "held_out.txt"


def held_out_words(count: int, seed: int | str) -> list[Problem]:
    """``count`` different word problems of situations that no training row has, the same for the same seed."""
    rng = random.Random(f"held_out/words/{seed}")
    found: dict[str, Problem] = {}
    kinds = situations.read_situations(HELD_OUT_SITUATIONS)
    order: list[situations.Situation] = []
    while len(found) < count:  # Every situation once before one comes again.
        order = order or rng.sample(kinds, len(kinds))
        problem = order.pop().draw(rng)
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def held_out_functions(count: int, seed: int | str) -> list[Problem]:
    """Requests for functions that no training row asks for, in wordings of their own; at most all there are."""
    kinds = requests.read_requests("held_out.txt")
    return requests.all_problems(kinds, requests.HELD_OUT_WORDINGS, f"held_out/{seed}")[:count]
