"""Public problem sets as problems: GSM8K, SVAMP, MBPP and HumanEval, from the files they are published in."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from cdlm.training.data.problem import Problem
from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.arithmetic import result_of, worked

PublicSet = Literal["gsm8k", "svamp", "mbpp", "humaneval"]

_MARK = re.compile(r"[\d\s+\-*/x$().,%]*=\s*\$?<<([^=<>]+)=([^<>]+)>>\$?[\d,.]*\d")
_SUM = re.compile(r"\d+(?:[-+*/]\d+)+")
_MOST_STEPS = 4
_LONGEST_QUESTION, _LONGEST_ANSWER = 400, 450  # Characters.
_MBPP_TRAINING = 601  # Task ids from here on are MBPP's training split; 11 to 510 are its test.


def read_public(path: Path, kind: PublicSet) -> list[Problem]:
    """Reads the problems of a file that can be checked, in order; of MBPP, not those of its training split.

    Raises:
        TrainingError: the file cannot be read, or a row lacks a field of its set.
    """
    try:
        text = path.read_text()
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        readers: dict[PublicSet, Callable[[dict[str, Any]], Problem | None]] = {
            "gsm8k": _gsm8k, "svamp": _svamp, "mbpp": _mbpp, "humaneval": _humaneval,
        }  # fmt: skip
        if kind == "mbpp":
            rows = [row for row in rows if row["task_id"] < _MBPP_TRAINING]
        problems = [readers[kind](row) for row in rows]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not a file of {kind}: {type(error).__name__}: {error}") from error
    return [problem for problem in problems if problem is not None]


def _gsm8k(row: dict[str, Any]) -> Problem | None:
    """A short problem with whole-number steps, rewritten like the generator's; ``None`` for other rows."""
    question, (solution, answer) = row["question"].strip(), row["answer"].split("\n#### ")
    lines = [_rework(line) for line in solution.split("\n")]
    if len(question) > _LONGEST_QUESTION or len(lines) > _MOST_STEPS or not answer.isdigit():
        return None
    if any(line is None for line in lines) or sum(map(len, map(str, lines))) > _LONGEST_ANSWER:
        return None
    return Problem("words", question, "\n".join((*map(str, lines), f"The answer is {answer}.")), answer)


def _rework(line: str) -> str | None:
    """Rewrites a line of a solution with its sums worked step by step.

    Returns ``None`` if it has no sum, a sum with fractions, or a result before its sum, which would teach to guess.
    """
    steps: list[str | None] = []

    def replace(match: "re.Match[str]") -> str:
        told = re.search(rf"(?<!\d){re.escape(match[2])}(?!\d)", line[: match.start()])
        steps.append(None if told else _steps(match[1].replace(" ", ""), match[2]))
        return f" {steps[-1]}"

    text = _MARK.sub(replace, line).strip()
    return text if steps and None not in steps and "<<" not in text else None


def _steps(expression: str, result: str) -> str | None:
    operators = re.findall(r"[-+*/]", expression)
    if not _SUM.fullmatch(expression) or len(set(operators)) > 1 or expression.count("/") > 1:
        return None
    total, *others = map(int, re.split(r"[-+*/]", expression))
    parts = []
    for operator, other in zip(operators, others, strict=True):
        following = result_of(total, operator, other)
        if following is None:
            return None
        parts.append(worked(total, operator, other))
        total = following
    return ", ".join(parts) if str(total) == result else None


def _svamp(row: dict[str, Any]) -> Problem:
    body = row["Body"].strip()
    question = f"{body}{'' if body[-1] in '.?!' else '.'} {row['Question'].strip()}"
    return Problem("words", question, "", f"{float(row['Answer']):g}")


def _mbpp(row: dict[str, Any]) -> Problem:
    """The request names the function by its first assertion, as the paper's prompts do (arXiv 2108.07732)."""
    tests = row["test_list"]
    prompt = f"{row['prompt'].strip()} Your code should pass this test:\n{tests[0]}"
    return Problem("functions", prompt, "", "\n".join([*row.get("test_imports", []), *tests]))


def _humaneval(row: dict[str, Any]) -> Problem:
    """The check begins with what stands above the signature, imports and helpers: an answer may leave them out."""
    prompt, name = row["prompt"].strip(), row["entry_point"]
    above = prompt[: prompt.rindex(f"def {name}(")]
    request = f"Complete this Python function:\n```python\n{prompt}\n```"
    return Problem("functions", request, "", f"{above}\n{row['test'].strip()}\n\ncheck({name})")
