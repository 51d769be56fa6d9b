"""The training mixture of nano, and the split that keeps evaluation problems out of it."""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from training.data import chat, functions, words
from training.data.problem import Problem, Task

GENERATORS = {"words": words.generate, "functions": functions.generate, "chat": chat.generate}
ScoredTask = Literal["words", "functions"]
HELD_OUT_SHARE = 0.1


def is_held_out(problem: Problem) -> bool:
    """Whether a problem belongs to the evaluation split: a stable hash of its prompt decides.

    Small talk has few distinct prompts and no score, so none of it is held out.
    """
    if problem.task == "chat":
        return False
    digest = hashlib.blake2b(problem.prompt.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def held_out(task: ScoredTask, count: int, seed: int) -> list[Problem]:
    """``count`` distinct evaluation problems, the same for the same seed."""
    rng = random.Random(f"held-out/{task}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = GENERATORS[task](rng)
        if is_held_out(problem):
            found.setdefault(problem.prompt, problem)
    return list(found.values())


def training_stream(seed: int | str, weights: dict[Task, float]) -> Iterator[Problem]:
    """Endless problems of the training split, tasks drawn by weight."""
    rng = random.Random(f"train/{seed}")
    tasks = list(weights)
    while True:
        task = rng.choices(tasks, [weights[name] for name in tasks])[0]
        problem = GENERATORS[task](rng)
        if not is_held_out(problem):
            yield problem
