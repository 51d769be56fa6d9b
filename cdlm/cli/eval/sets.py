"""The problem sets of ``cdlm eval``: problems, endpoints, and checks of answers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from cdlm.cli.bench.client import Endpoint
from cdlm.training.data.mixture import EvaluationSplit, ScoredTask, draw_problems
from cdlm.training.data.problem import Problem
from cdlm.training.data.words.parts import extract_answer
from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.measured import held_out_functions, measured_words, solves
from cdlm.training.natural.public import PublicSet, read_public
from cdlm.training.sandbox import passes

EvaluationTask = Literal["words", "functions", "natural-words", "natural-functions", "svamp", "humaneval", "mbpp"]

_PUBLIC = ("svamp", "humaneval", "mbpp")


def is_natural(task: EvaluationTask) -> bool:
    """Whether the task uses chats in natural wording; the other tasks are cdlm-nano's own."""
    return task not in ("words", "functions")


def draw_evaluation(
    task: EvaluationTask, data: Path | None, count: int, seed: int, split: EvaluationSplit
) -> list[Problem]:
    """Returns at most ``count`` distinct problems, determined by the seed.

    Raises:
        TrainingError: the task needs a file and has none, has one and needs none, or the file cannot be used;
            the task has no problems of the split.
    """
    if (task in _PUBLIC) != (data is not None):
        raise TrainingError(f"--task {task} {'needs' if data is None else 'does not take'} --data FILE")
    if split == "development" and is_natural(task) and task != "natural-words":
        raise TrainingError(f"--task {task} has no --split development")
    if data is not None:
        problems = read_public(data, cast(PublicSet, task))
        return random.Random(f"public/{seed}").sample(problems, min(count, len(problems)))
    if is_natural(task):
        return measured_words(count, seed, split) if task == "natural-words" else held_out_functions(count, seed)
    return draw_problems(cast(ScoredTask, task), count, seed, split)


def request_fields(task: EvaluationTask, problem: Problem) -> tuple[Endpoint, dict[str, Any]]:
    """The endpoint, and the body's fields for a problem. Answers stop after their first code block."""
    if not is_natural(task):
        return "completions", {"prompt": problem.prompt}
    stop = {"stop": ["```\n\n"]} if problem.task == "functions" else {}
    return "chat", {"messages": [{"role": "user", "content": problem.prompt}], **stop}


def judge(task: EvaluationTask) -> Callable[[Problem, str], bool]:
    """Returns the check of answers for a task."""
    return solves if is_natural(task) else is_right


def is_right(problem: Problem, text: str) -> bool:
    """Words: the stated answer equals the true one. Functions: the code passes its asserts."""
    if problem.task == "words":
        return extract_answer(text) == problem.check
    return passes(text, problem.check, timeout_s=10.0)
