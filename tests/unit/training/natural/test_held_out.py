"""What is measured is not trained on: no situation, function or wording of the measured files is in the others."""

import ast
import builtins
import itertools
import re

import pytest

from cdlm.training.data.mixture import EvaluationSplit
from cdlm.training.natural.overlap import all_shingles, overlaps
from cdlm.training.natural.problems.requests import HELD_OUT as HELD_OUT_FILE
from cdlm.training.natural.problems.requests import Request, read_requests, training_requests
from cdlm.training.natural.problems.situations import MEASURED, read_situations, training_files

HELD_OUT_REQUESTS = read_requests(HELD_OUT_FILE)
FORMS = {"times": "three times", "part": "a third"}
CHOICE = re.compile(r"\[([^\[\]]*)\]")


def wordings(text: str) -> list[str]:
    """Every way to choose, with one word for all people and all things of a kind, and one value for every number."""
    parts = CHOICE.split(text)
    texts = ["".join(chosen) for chosen in itertools.product(*(part.split("|") for part in parts))]
    texts = [re.sub(r"\{[a-w](?::(\w+))?\}", lambda slot: FORMS.get(slot[1], "1"), text) for text in texts]
    return [re.sub(r"\{(\w+?)\d?\}", r" \1 ", text) for text in texts]


def meaning(request: Request) -> str:
    """The expression with its variables named by the order in which they come."""
    parameters = request.signature.removesuffix(")").split("(")[1].split(", ")
    names = {parameter: f"p{number}" for number, parameter in enumerate(parameters)}

    class Rename(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            name = node.id if hasattr(builtins, node.id) else names.setdefault(node.id, f"v{len(names)}")
            return ast.copy_location(ast.Name(name, node.ctx), node)

    return ast.unparse(Rename().visit(ast.parse(request.expression, mode="eval")))


SHINGLES = {
    split: all_shingles(text for kind in read_situations(name) for text in wordings(kind.text))
    for split, name in MEASURED.items()
}


@pytest.mark.parametrize(
    ("name", "split"),
    [*itertools.product(training_files(), MEASURED), (MEASURED["development"], "held_out")],
)
def test_no_situation_repeats_the_wording_of_a_measured_one(name: str, split: EvaluationSplit) -> None:
    same = [text for kind in read_situations(name) for text in wordings(kind.text) if overlaps(text, SHINGLES[split])]
    assert not same


def test_the_check_of_situations_finds_other_names_numbers_and_choices() -> None:
    measured = all_shingles(wordings("[{N}|{N2}] puts {a} {things} into {k} big {boxes} in the cellar."))
    assert overlaps(wordings("{N3} puts {b} {things2} into {m:word} [big|small] {boxes} in the hall.")[0], measured)
    assert not overlaps(wordings("{N3} puts {b} {things2} into {m} small {boxes} in the cellar.")[0], measured)


def test_no_function_does_what_a_held_out_one_does() -> None:
    names = {request.signature.split("(")[0] for request in HELD_OUT_REQUESTS}
    meanings = {meaning(request) for request in HELD_OUT_REQUESTS}
    purposes = all_shingles(purpose for request in HELD_OUT_REQUESTS for purpose in request.purposes)
    same = [
        request.signature
        for request in training_requests()
        if request.signature.split("(")[0] in names
        or meaning(request) in meanings
        or any(overlaps(purpose, purposes) for purpose in request.purposes)
    ]
    assert not same


def test_the_check_of_functions_finds_other_names_of_variables() -> None:
    one = Request("evens(numbers)", ("",), "[x for x in numbers if x % 2 == 0]", "")
    other = Request("keep(items)", ("",), "[n for n in items if n % 2 == 0]", "")
    assert meaning(one) == meaning(other) == "[v1 for v1 in p0 if v1 % 2 == 0]"
    assert meaning(one) != meaning(Request("odds(items)", ("",), "[n for n in items if n % 2 == 1]", ""))
