"""GSM8K's rows as situations: what is drawn anew, what stays, and which rows are left out."""

import json
import random
import re
from pathlib import Path

import pytest

from cdlm.training.errors import TrainingError
from cdlm.training.natural.problems.gsm8k import situations_of
from cdlm.training.natural.problems.measured import solves
from cdlm.training.natural.public import read_gsm8k

ROW = {
    "question": "Ann sold 48 pens in April and half as many in May. Each costs $3. How much did she take?",
    "answer": "She sold 48/2 = <<48/2=24>>24 in May.\nThat is 48+24 = <<48+24=72>>72 pens in all.\n"
    "So 72 pens cost 72*3 = $<<72*3=216>>216.\n#### 216",
}


def row(question: str, solution: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": f"{solution}\n#### {answer}"}


def test_the_numbers_of_a_row_change_and_its_steps_follow() -> None:
    (situation,) = situations_of([ROW])
    assert (
        situation.text == "Ann sold {a} pens in April and half as many in May. Each costs ${b}. How much did she take?"
    )
    assert [step.operands for step in situation.steps] == [("a", "2"), ("a", "x1"), ("x2", "b")]
    assert [step.label for step in situation.steps] == ["She sold", "That", "pens cost"]
    rng = random.Random(0)
    problems = [situation.draw(rng) for _ in range(40)]
    for problem in problems:
        sold, price = map(int, re.findall(r"\d+", problem.prompt.replace("$three", "$3")))
        assert problem.check == str((sold + sold // 2) * price)
        assert 24 <= sold <= 76
        assert 2 <= price <= 4
        assert solves(problem, problem.completion)
    assert len({problem.prompt for problem in problems}) > 20


def test_a_number_in_words_changes_with_the_same_number_in_digits() -> None:
    question = "Tim has 5 boxes. Each of the five boxes holds 20 pens. He loses 4 pens. How many are left?"
    (situation,) = situations_of([row(question, "He had 5*20=<<5*20=100>>100.\nLeft: 100-4=<<100-4=96>>96.", "96")])
    assert situation.text.startswith("Tim has {a} boxes. Each of the {a:word} boxes holds {b} pens. He loses {c} pens.")


@pytest.mark.parametrize(
    ("question", "text"),
    [
        # 2 is also the factor of "doubles".
        ("Ann doubles her 2 pens and adds 40 pens. How many?", "Ann doubles her 2 pens and adds {a} pens. How many?"),
        # A year, a usual number, numbers that no step uses, and one that is also the factor of "twice".
        (
            "In 1987 Ann, of 30, has 8 hats, 2 pens twice and 40 more.",
            "In 1987 Ann, of 30, has 8 hats, 2 pens twice and {b} more.",
        ),
    ],
)
def test_what_may_mean_something_else_stays(question: str, text: str) -> None:
    (situation,) = situations_of([row(question, "She has 2*2=<<2*2=4>>4.\nThen she has 4+40=<<4+40=44>>44.", "44")])
    assert situation.text == text


@pytest.mark.parametrize(
    ("question", "solution", "answer"),
    [
        ("Half of 5?", "It is 5/2 = <<5/2=2.5>>2.5.", "2.5"),  # Not whole.
        ("8 books at $5?", "It costs 8*5+3 = <<8*5+3=43>>43.", "43"),  # Two kinds of operator.
        ("8 books, 13 lost?", "Left: 40-13 = <<40-13=27>>27.", "27"),  # 40 comes from nowhere.
        ("8 books and 16 pens?", "Books: 8*2 = <<8*2=16>>16.\nBoth: 16+16 = <<16+16=32>>32.", "32"),  # Which 16?
        ("8 books?", "It is clear.", "8"),
        ("8 books?", "We add 3 books.\nShe has 8+3 = <<8+3=11>>11.", "11"),  # A line with a number and no sum.
        ("8 books?", "She has 8+3 = <<8+3=11>>11.", "12"),  # Another answer than the last step's.
        ("8 [old] books?", "She has 8+3 = <<8+3=11>>11.", "11"),
        ("8 books?", "8+3 = <<8+3=11>>11.", "11"),  # No words for the step.
        # Hardly any other number of seconds is a whole number of hours.
        ("A film of 28800 seconds?", "It has 28800/60=<<28800/60=480>>480.\nHours: 480/60=<<480/60=8>>8.", "8"),
        ("8 books?", "\n".join(f"Sum {n}: {n}+8=<<{n}+8={n + 8}>>{n + 8}" for n in (1, 9, 17, 25, 33)), "41"),
    ],
)
def test_uncertain_rows_are_left_out(question: str, solution: str, answer: str) -> None:
    assert list(situations_of([row("8 books?", "She has 8+3 = <<8+3=11>>11.", "11")]))
    assert not list(situations_of([row(question, solution, answer)]))


def test_a_file_of_another_kind_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW))
    assert len(read_gsm8k(path)) == 2
    path.write_text('{"question": "8 books?"}')
    with pytest.raises(TrainingError, match="not a file of gsm8k: KeyError"):
        read_gsm8k(path)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_gsm8k(tmp_path / "nowhere")
