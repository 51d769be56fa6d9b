"""Public problem sets from the files they are published in: SVAMP, MBPP and HumanEval, and GSM8K as situations."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from cdlm.training.data.problem import Problem
from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.gsm8k import situations_of
from cdlm.training.natural.problems.situations import Situation

PublicSet = Literal["svamp", "mbpp", "humaneval"]

_MBPP_TRAINING = 601  # Task ids from here on are MBPP's training split; 11 to 510 are its test.


def read_public(path: Path, kind: PublicSet) -> list[Problem]:
    """Reads the problems of a file that can be checked, in order; of MBPP, not those of its training split.

    Raises:
        TrainingError: the file cannot be read, or a row lacks a field of its set.
    """
    readers: dict[PublicSet, Callable[[dict[str, Any]], Problem]] = {
        "svamp": _svamp, "mbpp": _mbpp, "humaneval": _humaneval,
    }  # fmt: skip
    with _named(path, kind):
        rows = [row for row in _rows(path) if kind != "mbpp" or row["task_id"] < _MBPP_TRAINING]
        return [readers[kind](row) for row in rows]


def read_gsm8k(path: Path) -> list[Situation]:
    """Reads the rows of GSM8K's training file whose numbers can be drawn anew, in order.

    Raises:
        TrainingError: the file cannot be read, or a row lacks a field of the set.
    """
    with _named(path, "gsm8k"):
        return list(situations_of(_rows(path)))


def _rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def _named(path: Path, kind: str) -> Iterator[None]:
    """Turns what goes wrong inside into a ``TrainingError`` that names the file."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path}: not a file of {kind}: {type(error).__name__}: {error}") from error


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
