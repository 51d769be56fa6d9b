"""Short Python functions asked for as people ask, each with assertions that check an answer.

A line of a file of requests is ``signature | what it does | ... | result as an expression | arguments; arguments``:
the function must give what the expression gives, for all the arguments.
"""

import ast
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from cdlm.training.data.problem import Problem

HELD_OUT = "held_out.txt"  # The file whose requests are for measuring only.
TRAINING_WORDINGS = (
    "Write a Python function {signature} that {purpose}.",
    "Write a Python function called {name} that {purpose}.",
    "How do I write a Python function that {purpose}? Call it {name}.",
    "I need a function in Python that {purpose}. Name it {name} with the parameters {params}.",
    "Can you show me a Python function {signature} that {purpose}?",
    "Please give me the code of a Python function `{signature}` which {purpose}.",
    "Help me with Python: I want {signature}, a function that {purpose}.",
)
HELD_OUT_WORDINGS = (
    "Could you code {signature} in Python for me? It is a function that {purpose}.",
    "My homework is to define {signature} in Python. The function {purpose}. How would that look?",
    "python function {name}, parameters {params}: {purpose}",
)
_FOLDER = files("cdlm.training.natural").joinpath("requests")
_ANSWER = "Here's a Python function that {purpose}:\n\n```python\ndef {signature}:\n    return {expression}\n```"
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Request:
    """A function: its signature, wordings of what it does ("counts the vowels in a string"), and assertions.

    ``expression`` is the result, as code over the parameters.
    """

    signature: str
    purposes: tuple[str, ...]
    expression: str
    checks: str

    def problem(self, wording: str, purpose: str) -> Problem:
        """The request in one wording, answered by the expression; the assertions decide about other answers."""
        name, params = self.signature.removesuffix(")").split("(")
        prompt = wording.format(signature=self.signature, name=name, params=params, purpose=purpose)
        answer = _ANSWER.format(purpose=purpose, signature=self.signature, expression=self.expression)
        return Problem("functions", prompt, answer, self.checks)


def read_requests(name: str) -> list[Request]:
    """The requests of a file in ``training/natural/requests``; lines that begin with # are comments."""
    text = _FOLDER.joinpath(name).read_text()
    return [_parse(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def training_requests() -> list[Request]:
    """The requests to train on."""
    names = sorted(file.name for file in _FOLDER.iterdir() if file.name.endswith(".txt") and file.name != HELD_OUT)
    return [request for name in names for request in read_requests(name)]


def all_problems(requests: Sequence[Request], wordings: Sequence[str], seed: int | str) -> list[Problem]:
    """Every request in every wording, in random order; the wording of what it does takes turns."""
    problems = [
        request.problem(wording, request.purposes[number % len(request.purposes)])
        for request in requests
        for number, wording in enumerate(wordings)
    ]
    random.Random(f"requests/{seed}").shuffle(problems)
    return problems


def teachable(request: Request) -> bool:
    """Whether the expression is what one would write: without tricks that only make it one line."""
    return not re.search(r"__import__|\[0, 1, 1", request.expression)


def code_of(answer: str) -> str:
    """The code in an answer: its first fenced block that defines something, else the whole text."""
    blocks = [str(block) for block in _FENCE.findall(answer)]
    return next((block for block in blocks if "def " in block), blocks[0] if blocks else answer)


def _parse(line: str) -> Request:
    signature, *purposes, expression, samples = line.split(" | ")
    name, params = signature.removesuffix(")").split("(")
    # The files are this project's own.
    reference = eval(f"lambda {params}: {expression}")  # nosec B307
    checks = []
    for arguments in samples.split("; "):
        result = reference(*ast.literal_eval(f"({arguments},)"))
        compared = f"abs({name}({arguments}) - {result!r}) < 1e-6" if isinstance(result, float) else None
        checks.append(f"assert {compared or f'{name}({arguments}) == {result!r}'}")
    return Request(signature, tuple(purposes), expression, "\n".join(checks))
