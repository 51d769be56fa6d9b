"""Short Python functions written from a one-line description, with assertions that check them."""

import random
import re
from types import CodeType

from cdlm.training.data.functions import dicts, lists, numbers, strings
from cdlm.training.data.functions.spec import Spec, edge_arguments, sample_arguments
from cdlm.training.data.problem import Problem

# The bounds below which a random number chooses a kind of function, and the functions above them.
_FAMILIES = (
    (lists.KINDS, lists.ENTRIES),
    (strings.KINDS, strings.ENTRIES),
    (numbers.KINDS, numbers.ENTRIES),
    (dicts.KINDS, dicts.ENTRIES),
)
_WEIGHTS = (40, 23, 22, 15)
_REQUESTS = (
    "Write a Python function {} that returns {}.",
    "Write a Python function {} that returns {}.",
    "Write a function {} that returns {}.",
    "Write a Python function {} to return {}.",
    "Define a Python function {} that returns {}.",
    "Can you write a Python function {} that returns {}?",
    "I need a Python function {} that returns {}.",
    "Python function {} that returns {}",
)
# Other names for the common parameters, so that the name is read from the prompt.
_SYNONYMS = {"nums": ("numbers", "values", "xs", "data"), "text": ("s", "line"), "table": ("d", "scores")}
# A condition in an "if" statement or at the end of a comprehension.
_CONDITION = re.compile(r"(^ +if | if )(?!.* else )(.+)(:|[\])])$", re.MULTILINE)
_SLIPS = (
    (" > ", " >= "), (" < ", " <= "), (" >= ", " > "), (" <= ", " < "), (" and ", " or "), ("+= 1", "+= 2"),
)  # fmt: skip
_USUAL_SAMPLES = 10
_SAMPLES = 48
_ATTEMPTS = 40


def _rename(rng: random.Random, spec: Spec) -> tuple[str, str, str]:
    """Signature, purpose and code of ``spec``, at times with another name for its first parameter."""
    parts = (spec.signature, spec.purpose, spec.code)
    first = spec.params.split(", ")[0]
    # "values" already means something else in a few descriptions.
    options = [name for name in _SYNONYMS.get(first, ()) if name not in spec.purpose]
    if not options or rng.random() < 0.7:
        return parts
    chosen = rng.choice(options)
    signature, purpose, code = (re.sub(rf"\b{first}\b", chosen, part) for part in parts)
    return signature, purpose, code


def _call(code: CodeType, name: str, arguments: str) -> str:
    """The result as source text."""
    scope: dict[str, object] = {}
    # The code is this generator's own.
    exec(code, scope)  # nosec B102
    return repr(eval(f"{name}{arguments}", scope))  # nosec B307


def _differs(code: CodeType, name: str, arguments: str, result: str) -> bool:
    """True if ``code`` gives something other than ``result``, or raises."""
    try:
        return _call(code, name, arguments) != result
    except Exception:  # A wrong version may fail in any way; each way tells it apart.
        return True


def _mistakes(text: str) -> list[CodeType]:
    """Versions of a function with one condition wrong; the first two ignore a condition altogether."""
    # A wrong condition could keep a "while" loop going for ever.
    if "while " in text:
        return []
    versions = [_CONDITION.sub(rf"\1{value}\3", text) for value in ("True", "False")]
    versions += [text.replace(right, wrong) for right, wrong in _SLIPS]
    return [compile(version, "<mistake>", "exec") for version in versions if version != text]


def _assertions(rng: random.Random, spec: Spec) -> list[str]:
    """Assertions with at least two different results that tell the code from versions with a mistake.

    Empty if the samples do not show enough difference.
    """
    code = compile(spec.code, "<reference>", "exec")
    mistakes = dict(enumerate(_mistakes(spec.code)))
    chosen: dict[str, str] = {}
    spare: dict[str, str] = {}
    for i in range(_SAMPLES):
        sample = edge_arguments(rng, spec) if i == 0 else sample_arguments(rng, spec)
        arguments = f"({', '.join(repr(value) for value in sample)})"
        result = _call(code, spec.name, arguments)
        found = [key for key, wrong in mistakes.items() if _differs(wrong, spec.name, arguments, result)]
        for key in found:
            del mistakes[key]
        fresh = i == 0 or len(set(chosen.values()) | {result}) == 2 > len(set(chosen.values()))
        target = chosen if found or fresh else spare
        target[arguments] = result
        if i >= _USUAL_SAMPLES and not mistakes and len(set(chosen.values())) > 1:
            break
    results = set(chosen.values())
    spare = {key: result for key, result in spare.items() if key not in chosen}
    extra = sorted(spare, key=lambda key: spare[key] in results)
    chosen |= {key: spare[key] for key in extra}
    if len(results) < 2 or len(chosen) < 4 or (_CONDITION.search(spec.code) and mistakes.keys() & {0, 1}):
        return []
    return [f"assert {spec.name}{key} == {chosen[key]}" for key in list(chosen)[: rng.randint(5, 6)]]


def _draw(rng: random.Random) -> Spec:
    """A function of a family: of the first kind whose bound is above a random number, or a stand-alone one."""
    kinds, entries = rng.choices(_FAMILIES, _WEIGHTS)[0]
    chance = rng.random()
    for bound, draw in kinds:
        if chance < bound:
            return draw(rng)
    return rng.choice(entries).draw(rng)


def generate(rng: random.Random) -> Problem:
    """One function to write. The same prompt always has the same completion.

    Raises ``RuntimeError`` if no draw gives a function with at least two different results.
    """
    for _ in range(_ATTEMPTS):
        spec = _draw(rng)
        assertions = _assertions(rng, spec)
        if assertions:
            signature, purpose, code = _rename(rng, spec)
            prompt = rng.choice(_REQUESTS).format(signature, purpose)
            return Problem("functions", prompt, code, "\n".join(assertions))
    raise RuntimeError(f"no function with varied results in {_ATTEMPTS} draws")
