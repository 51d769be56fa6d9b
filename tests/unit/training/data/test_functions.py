import ast
import builtins
import random
import re

import pytest

from cdlm.training.data.functions.problems import generate
from cdlm.training.data.problem import Problem
from cdlm.training.sandbox import passes


def draw(count: int, seed: int = 0) -> list[Problem]:
    rng = random.Random(seed)
    return [generate(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return draw(300)


def function_name(problem: Problem) -> str:
    match = re.match(r"def (\w+)\(", problem.completion)
    assert match
    return match.group(1)


def test_reference_passes_its_checks(problems: list[Problem]) -> None:
    for problem in problems:
        scope: dict[str, object] = {}
        exec(problem.completion, scope)
        exec(problem.check, scope)


def test_reference_passes_in_the_sandbox(problems: list[Problem]) -> None:
    assert all(passes(problem.completion, problem.check, timeout_s=10) for problem in problems[:4])


def test_shape(problems: list[Problem]) -> None:
    for problem in problems:
        assert problem.task == "functions"
        assert "\n" not in problem.prompt
        assert problem.completion == problem.completion.strip()
        assert "\t" not in problem.completion
        head, *lines = problem.completion.splitlines()
        assert head.removeprefix("def ").removesuffix(":") in problem.prompt
        assert function_name(problem) not in dir(builtins)
        checks = problem.check.splitlines()
        assert 4 <= len(checks) <= 6
        assert all(line.startswith(f"assert {function_name(problem)}(") for line in checks)
        assert 1 <= len(lines) <= 9
        assert len(problem.completion) <= 320
        ast.parse(problem.check)


@pytest.mark.parametrize("value", ["None", "0", "True", "False", "[]"])
def test_constant_function_fails(problems: list[Problem], value: str) -> None:
    for problem in problems:
        head = problem.completion.splitlines()[0]
        scope: dict[str, object] = {}
        exec(f"{head}\n    return {value}", scope)
        with pytest.raises(AssertionError):
            exec(problem.check, scope)


def test_same_seed_same_problems(problems: list[Problem]) -> None:
    assert draw(300) == problems
    assert draw(20, seed=1) != problems[:20]


def test_prompts_are_varied_and_determine_the_completion() -> None:
    completions: dict[str, str] = {}
    many = draw(1500, seed=2)
    for problem in many:
        assert completions.setdefault(problem.prompt, problem.completion) == problem.completion
    assert len(completions) > 0.8 * len(many)


def test_description_determines_the_code() -> None:
    codes: dict[str, str] = {}
    for problem in draw(1500, seed=3):
        name = function_name(problem)
        description = re.sub(r".*?\)( to return | that returns )", "", problem.prompt).rstrip(".?")
        parameters = problem.completion.splitlines()[0].removeprefix(f"def {name}")
        body = problem.completion.partition("\n")[2]
        assert codes.setdefault(parameters + description, body) == body


def test_few_different_words() -> None:
    words: set[str] = set()
    for problem in draw(1500, seed=4):
        purpose = problem.prompt.partition(")")[2]
        words |= set(re.findall(r"[a-z]{2,}", purpose.lower()))
    assert len(words) < 220
