from cdlm.training.natural.problems.measured import held_out_functions, solves
from cdlm.training.natural.problems.requests import (
    HELD_OUT_WORDINGS,
    TRAINING_WORDINGS,
    all_problems,
    code_of,
    read_requests,
    teachable,
    training_requests,
)
from cdlm.training.sandbox import passes

TRAINING, HELD_OUT = training_requests(), read_requests("held_out.txt")
# In one process: each code with its assertions alone, which must be true or false as is said.
EACH = """
for code, checks in {cases!r}:
    scope = {{"__name__": "candidate"}}
    exec(code, scope)
    try:
        exec(checks, scope)
    except Exception:
        true = False
    else:
        true = True
    assert true is {true}
"""


def exceptions(cases: list[tuple[str, str]], true: bool) -> list[str]:
    """The codes whose assertions are not all true, or are, by ``true``; looked for one by one only if there is one."""
    if passes("", EACH.format(cases=cases, true=true), timeout_s=60):
        return []
    return [code for code, checks in cases if passes(code, checks) is not true]


def name(signature: str) -> str:
    return signature.split("(")[0]


def test_no_function_is_both_trained_on_and_held_out() -> None:
    names = [name(request.signature) for request in TRAINING + HELD_OUT]
    assert len(names) == len(set(names))
    purposes = [purpose for request in TRAINING + HELD_OUT for purpose in request.purposes]
    assert len(purposes) == len(set(purposes))
    assert not set(TRAINING_WORDINGS) & set(HELD_OUT_WORDINGS)


def test_at_least_200_held_out_requests_the_same_for_the_same_seed() -> None:
    problems = held_out_functions(1000, 0)
    assert len({problem.prompt for problem in problems}) == len(problems) >= 200
    assert held_out_functions(20, 0) == problems[:20] != held_out_functions(20, 1)


def test_a_request_names_the_function_and_what_it_does() -> None:
    for request in TRAINING:
        for problem in all_problems([request], TRAINING_WORDINGS, 0):
            assert name(request.signature) in problem.prompt
            assert any(purpose in problem.prompt for purpose in request.purposes)


def test_assertions_tell_right_code_from_wrong_code() -> None:
    by_name = {name(request.signature): request for request in TRAINING + HELD_OUT}
    right = {
        "count_vowels": "def count_vowels(text):\n    return sum(c in 'aeiou' for c in text)",
        "gcd": "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "circle_area": "def circle_area(r):\n    return 3.14159265 * r * r",
        "merge_dicts": "def merge_dicts(a, b):\n    return {**a, **b}",
    }
    for function, code in right.items():
        assert passes(code, by_name[function].checks)
        assert not passes(code.replace("return ", "return None and "), by_name[function].checks)
    for request in TRAINING + HELD_OUT:
        assert request.checks.count("assert ") >= 2
    wrong = "def {}(*arguments):\n    return object()"
    assert not exceptions([(wrong.format(name(each.signature)), each.checks) for each in TRAINING + HELD_OUT], False)


def test_references_pass_their_own_assertions() -> None:
    problems = [request.problem(TRAINING_WORDINGS[0], request.purposes[0]) for request in TRAINING]
    assert not exceptions([(code_of(problem.completion), problem.check) for problem in problems], True)
    assert 200 < sum(map(teachable, TRAINING)) < len(TRAINING)


def test_wrong_code_and_wrong_assertions_are_found_among_many() -> None:
    right = [("def f(x):\n    return x", "assert f(1) == 1"), ("def g(x):\n    return 2 * x", "assert g(1) == 2")]
    wrong = ("def h(x):\n    return f(x)", "assert h(1) == 1")  # What another code defines is not there.
    assert exceptions(right, True) == []
    assert exceptions([*right, wrong], True) == [wrong[0]]
    assert exceptions([wrong, right[1]], False) == [right[1][0]]


def test_code_is_found_in_prose_and_outside_of_it() -> None:
    assert code_of("Sure:\n```python\ndef f():\n    return 1\n```\nAnd:\n```\nf()\n```") == "def f():\n    return 1\n"
    assert code_of("Run this:\n```\npip install x\n```\n```python\ndef f(): ...\n```") == "def f(): ...\n"
    assert code_of("```python\ndef f(): ...") == "def f(): ..."
    assert code_of("def f(): ...") == "def f(): ..."
    (problem,) = all_problems([r for r in TRAINING if name(r.signature) == "square"], TRAINING_WORDINGS[:1], 0)
    assert solves(problem, "Here it is.\n```python\ndef square(x: List[int]):\n    return x ** 2\n```")
    assert not solves(problem, "Here it is.\n```python\ndef square(x):\n    return x * 2\n```")
