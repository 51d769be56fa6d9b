import random
import re

from cdlm.training.data.arithmetic import add, div, mul, sub
from cdlm.training.data.mixture import draw_problems, split_of, training_stream
from cdlm.training.data.words import families
from cdlm.training.data.words.parts import extract_answer

EQUATION = re.compile(r"[\d+*/-]+(?:=[\d+*/-]+)+")


def test_arithmetic_is_written_out_in_steps() -> None:
    assert mul(24, 7) == "24*7=140+28=168"
    assert mul(7, 24) == "7*24=140+28=168"
    assert mul(152, 6) == "152*6=600+300+12=900+12=912"
    assert mul(8, 9) == "8*9=72"
    assert mul(30, 4) == "30*4=120+0=120"
    assert add(47, 38) == "47+38=77+8=85"
    assert add(47, 30) == "47+30=77+0=77"
    assert add(147, 200) == "147+200=347+0=347"
    assert add(1, 2, 3) == "1+2+3=3+3=6"
    assert sub(9, 4) == "9-4=5"
    assert sub(415, 138) == "415-138=315-38=285-8=277"
    assert sub(92, 30) == "92-30=62-0=62"
    assert div(84, 4) == "84/4=80/4+4/4=20+1=21"
    assert div(48, 4) == "48/4=12"


def test_how_many_steps_a_sum_takes_follows_from_how_many_digits_it_has() -> None:
    for operation in (add, sub, mul):
        for left, right in (((50, 99), (10, 49)), ((50, 99), (2, 9))):
            texts = [operation(a, b) for a in range(left[0], left[1] + 1) for b in range(right[0], right[1] + 1)]
            shapes = {re.sub(r"\d+", "N", text) for text in texts if operation is not mul or right[1] < 10}
            assert len(shapes) <= 1


def test_every_equation_of_every_solution_is_true() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        problem = families.generate(rng)
        for equation in EQUATION.findall(problem.completion):
            values = {eval(side) for side in equation.split("=")}
            assert len(values) == 1, problem
        assert extract_answer(problem.completion) == problem.check
        assert int(problem.check) >= 0


def test_answers_are_read_from_the_last_statement() -> None:
    assert extract_answer("The answer is 3. No, the answer is $1,204.") == "1204"
    assert extract_answer("no idea") is None


def test_held_out_problems_are_reproducible_fresh_by_seed_and_never_trained_on() -> None:
    first, again, other = (draw_problems("words", 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert not {p.prompt for p in first} & {p.prompt for p in other}
    assert all(split_of(problem) == "held_out" for problem in first)
    stream = training_stream(0, {"words": 1.0, "functions": 1.0, "chat": 0.2})
    assert all(split_of(next(stream)) == "training" for _ in range(500))
