import json
from pathlib import Path

import pytest

from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.measured import solves
from cdlm.training.natural.public import read_public

SVAMP = [{"Body": "Dan had $ 3 left", "Question": "How much did it cost?", "Answer": 1.0}]
MBPP = [
    {"task_id": 11, "prompt": "Write a function to add.", "test_imports": ["import math"],
     "test_list": ["assert add(1, 2) == 3", "assert math.isclose(add(0.5, 0.5), 1)"]},
    {"task_id": 601, "prompt": "Write a function to halve.", "test_list": ["assert half(2) == 1"]},
]  # fmt: skip
HUMANEVAL = [
    {"task_id": "HumanEval/0", "entry_point": "total",
     "prompt": "from typing import List\nimport math\n\ndef helper(x):\n    return x\n\n"
     'def total(xs: List[int]) -> int:\n    """ The sum. """\n',
     "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n"}
]  # fmt: skip


def write(path: Path, rows: list[dict[str, object]], *, lines: bool) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


def test_svamp_is_body_and_question(tmp_path: Path) -> None:
    (problem,) = read_public(write(tmp_path / "svamp.json", SVAMP, lines=False), "svamp")
    assert (problem.prompt, problem.check) == ("Dan had $ 3 left. How much did it cost?", "1")
    assert solves(problem, "3 - 2 = 1")


def test_mbpp_measures_its_test_split_only(tmp_path: Path) -> None:
    path = write(tmp_path / "mbpp.json", MBPP, lines=False)
    (problem,) = read_public(path, "mbpp")
    assert problem.prompt == "Write a function to add. Your code should pass this test:\nassert add(1, 2) == 3"
    assert solves(problem, "```python\ndef add(a, b):\n    return a + b\n```")
    assert not solves(problem, "```python\ndef add(a, b):\n    return 3\n```")


def test_humaneval_answers_may_leave_out_what_stands_above_the_signature(tmp_path: Path) -> None:
    (problem,) = read_public(write(tmp_path / "humaneval.jsonl", HUMANEVAL, lines=True), "humaneval")
    assert problem.prompt.startswith("Complete this Python function:\n```python\nfrom typing")
    assert solves(problem, "```python\ndef total(xs: List[int]) -> int:\n    return helper(math.fsum(xs))\n```")
    assert not solves(problem, "```python\ndef total(xs):\n    return len(xs)\n```")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a file of svamp"), ('[{"Body": "x"}]', "KeyError: 'Question'"), ("[1]", "TypeError")],
)
def test_another_file_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_public(tmp_path / "x.json", "svamp")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_public(tmp_path / "nowhere.json", "svamp")
