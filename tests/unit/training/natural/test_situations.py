import random
import re

import pytest

from cdlm.training.data.mixture import EvaluationSplit
from cdlm.training.natural.mixture import draw_sum
from cdlm.training.natural.overlap import all_shingles, overlaps
from cdlm.training.natural.problems.arithmetic import result_of, worked
from cdlm.training.natural.problems.measured import measured_words, solves, stated_number
from cdlm.training.natural.problems.situations import (
    MEASURED,
    SituationError,
    draw,
    parse,
    read_situations,
    training_files,
)

EQUATION = re.compile(r"\d+(?: [-+*/] \d+)+(?: = \d+(?: [-+*/] \d+)*)+")
TRAINING = [situation for name in training_files() for situation in read_situations(name)]


def test_sums_are_worked_digit_by_digit() -> None:
    assert worked(45, "-", 18) == "45 - 18 = 35 - 8 = 27"
    assert worked(310, "-", 275) == "310 - 275 = 110 - 75 = 40 - 5 = 35"
    assert worked(45, "+", 18) == "45 + 18 = 55 + 8 = 63"
    assert worked(7, "+", 45) == "7 + 45 = 47 + 5 = 52"
    assert worked(345, "+", 278) == "345 + 278 = 545 + 78 = 615 + 8 = 623"
    assert worked(34, "*", 6) == "34 * 6 = 180 + 24 = 204"
    assert worked(125, "*", 4) == "125 * 4 = 400 + 80 + 20 = 480 + 20 = 500"
    assert worked(34, "*", 27) == "34 * 27 = 680 + 238 = 918"
    assert worked(9, "*", 12) == "9 * 12 = 108"
    assert worked(96, "/", 4) == "96 / 4 = 80 / 4 + 16 / 4 = 20 + 4 = 24"
    assert worked(48, "/", 6) == "48 / 6 = 8"


@pytest.mark.parametrize(("x", "operator", "y"), [(3, "-", 4), (7, "/", 2), (7, "/", 0)])
def test_a_sum_without_a_whole_result_is_refused(x: int, operator: str, y: int) -> None:
    assert result_of(x, operator, y) is None
    with pytest.raises(ValueError, match="no whole result"):
        worked(x, operator, y)


def test_every_sum_up_to_three_digits_is_true_and_no_step_carries_twice() -> None:
    rng = random.Random(0)
    for _ in range(4000):
        x, y, operator = rng.randint(0, 999), rng.randint(0, 999), rng.choice("+-*/")
        result = result_of(x, operator, y)
        if result is None:
            continue
        parts = worked(x, operator, y).split(" = ")
        assert parts[0] == f"{x} {operator} {y}"
        assert {eval(part) for part in parts} == {result}
        if operator in "+-":
            for step in parts[1:-1]:  # The number that is added was shortened by its first digit.
                assert re.fullmatch(rf"\d+ \{operator} \d{{1,2}}", step)


@pytest.mark.parametrize("name", [*training_files(), *MEASURED.values()])
def test_every_situation_gives_true_worked_answers(name: str) -> None:
    rng = random.Random(1)
    for situation in read_situations(name):
        for _ in range(12):
            problem = situation.draw(rng)
            assert not re.search(r"[{}\[\]|]|\bnone\b", problem.prompt + problem.completion), problem
            *lines, last = problem.completion.split("\n")
            assert last == f"The answer is {problem.check}."
            assert len(lines) == len(situation.steps)
            for line in lines:
                equations = EQUATION.findall(line)
                assert equations, line
                for equation in equations:
                    assert len({eval(part) for part in equation.split(" = ")}) == 1, line
            assert lines[-1].endswith(f" {problem.check}.")
            assert solves(problem, problem.completion)
            assert re.match('"?[A-Z0-9]', problem.prompt), problem


def test_every_number_of_a_problem_that_matters_is_in_its_text() -> None:
    # Numbers are words at times; then the digits are missing in the text, and only then.
    rng = random.Random(2)
    spelled = 0
    for situation in TRAINING[:100]:
        problem = situation.draw(rng)
        spelled += bool(re.search(r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b", problem.prompt))
    assert 10 < spelled < 90


@pytest.mark.parametrize(("split", "count"), [("held_out", 210), ("development", 364)])
def test_hundreds_of_situations_and_no_wording_of_the_measured_ones(split: EvaluationSplit, count: int) -> None:
    assert len(TRAINING) > 5000
    problems = measured_words(count, 0, split)
    assert len({problem.prompt for problem in problems}) == count
    assert problems == measured_words(count, 0, split)
    measured = all_shingles(problem.prompt for problem in problems)
    rng = random.Random(3)
    assert not any(overlaps(draw(TRAINING, rng).prompt, measured) for _ in range(3000))
    assert overlaps(problems[0].prompt, measured)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{N} has {a} {things}.", "no ' => '"),
        ("{N} has {a} {things}. => left: a", "not 'label: number operator number'"),
        ("{N} has {a} {things}. => left: a - b", "step 1 uses b"),
        ("{N} has {a} {things}. => left: x1 - a", "step 1 uses x1"),
        ("{N} has {a} {things}. => left: a - 1 @ b=1..2", "'b=1..2' is not the range"),
        ("{N} has {a} {things}. => left: a - 1 @ a=9..2", "'a=9..2' is not the range"),
    ],
)
def test_a_line_that_is_no_situation_is_refused(line: str, message: str) -> None:
    with pytest.raises(SituationError, match=message):
        parse(line)


def test_unknown_slots_and_numbers_that_cannot_fit_are_refused() -> None:
    with pytest.raises(SituationError, match="unicorns"):
        parse("{N} has {a} {unicorns}. => left: a - 1").draw(random.Random(0))
    with pytest.raises(SituationError, match="no numbers fit"):
        parse("{N} has {a:part} of {b} {things}. => left: b / a @ a=11..20,b=20..90").draw(random.Random(0))
    with pytest.raises(SituationError, match="no numbers fit"):
        parse("{N} has {a} {things}. => left: a - 100").draw(random.Random(0))


def test_bare_sums_are_true() -> None:
    rng = random.Random(4)
    for _ in range(500):
        problem = draw_sum(rng)
        assert solves(problem, problem.completion)
        assert len({eval(part) for part in problem.completion.split(".\n")[0].split(" = ")}) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 + 3 = 15.\nThe answer is 15.", 15),
        ("The answer is: **$1,250**. He has 3 left.", 1250),
        ("So there are 4 cats and 7 dogs", 7),
        ("It is -3.5 degrees", -3.5),
        ("The answer is 24.", 24),
        ("no number", None),
    ],
)
def test_the_number_that_an_answer_states(text: str, number: float | None) -> None:
    assert stated_number(text) == number
