"""The training mixture of nano, and the splits that keep problems out of it."""

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from cdlm.training.data import chat
from cdlm.training.data.functions import problems
from cdlm.training.data.problem import Problem, Task
from cdlm.training.data.words import families

GENERATORS = {"words": families.generate, "functions": problems.generate, "chat": chat.generate}
ScoredTask = Literal["words", "functions"]
EvaluationSplit = Literal["held_out", "development"]
Split = Literal["training", "development", "held_out"]
HELD_OUT_SHARE = 0.10
DEVELOPMENT_SHARE = 0.05


def split_of(problem: Problem) -> Split:
    """The split a problem belongs to: a stable hash of its prompt decides.

    ``held_out`` is for final figures only; whoever tunes looks at ``development``. Small talk has few distinct
    prompts and no score, so all of it is for training.
    """
    if problem.task == "chat":
        return "training"
    digest = hashlib.blake2b(problem.prompt.encode(), digest_size=8, salt=b"recipe-1").digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < HELD_OUT_SHARE:
        return "held_out"
    return "development" if share < HELD_OUT_SHARE + DEVELOPMENT_SHARE else "training"


def draw_problems(task: ScoredTask, count: int, seed: int, split: Split = "held_out") -> list[Problem]:
    """``count`` distinct problems of a split, the same for the same seed."""
    rng = random.Random(f"{split}/{task}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = GENERATORS[task](rng)
        if split_of(problem) == split:
            found.setdefault(problem.prompt, problem)
    return list(found.values())


def training_stream(seed: int | str, weights: dict[Task, float]) -> Iterator[Problem]:
    """Endless problems of the training split, tasks drawn by weight."""
    rng = random.Random(f"train/{seed}")
    tasks = list(weights)
    while True:
        task = rng.choices(tasks, [weights[name] for name in tasks])[0]
        problem = GENERATORS[task](rng)
        if split_of(problem) == "training":
            yield problem
