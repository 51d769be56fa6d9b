import json
from pathlib import Path

import pytest

from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.measured import solves
from cdlm.training.natural.public import read_public

GSM8K = [
    {"question": "Ann sold 48 pens in April and half as many in May. How many in all?",
     "answer": "She sold 48/2 = <<48/2=24>>24 in May.\nThat is 48+24 = $<<48+24=72>>72 in all.\n#### 72"},
    {"question": "Half of 5?", "answer": "It is 5/2 = <<5/2=2.5>>2.5.\n#### 2.5"},
    {"question": "8 books at $5?", "answer": "They cost $40 because 8*5 = $<<8*5=40>>40.\n#### 40"},
    {"question": "Wrong?", "answer": "It is 8*5 = <<8*5=41>>41.\n#### 41"},
    {"question": "Three?", "answer": "It is 20-5-3 = <<20-5-3=12>>12.\n#### 12"},
    {"question": "Nothing?", "answer": "It is clear.\n#### 12"},
    {"question": "Four?", "answer": "1+1 = <<1+1=2>>2\n" * 4 + "#### 2"},
    {"question": "Five steps?", "answer": "1+1 = <<1+1=2>>2\n" * 5 + "#### 2"},
    {"question": "Long? " * 80, "answer": "It is 20-5-3 = <<20-5-3=12>>12.\n#### 12"},
    {"question": "Wordy?", "answer": f"{'It ' * 200}20-5-3 = <<20-5-3=12>>12.\n#### 12"},
]  # fmt: skip
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


def test_gsm8k_keeps_short_whole_number_solutions_and_works_them(tmp_path: Path) -> None:
    problems = read_public(write(tmp_path / "gsm8k.jsonl", GSM8K, lines=True), "gsm8k")
    assert [problem.prompt for problem in problems] == [GSM8K[0]["question"], "Three?", "Four?"]
    assert problems[0].completion == (
        "She sold 48 / 2 = 40 / 2 + 8 / 2 = 20 + 4 = 24 in May.\nThat is 48 + 24 = 68 + 4 = 72 in all.\n"
        "The answer is 72."
    )
    assert problems[1].completion == "It is 20 - 5 = 15, 15 - 3 = 12.\nThe answer is 12."
    assert all(solves(problem, problem.completion) for problem in problems)


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
