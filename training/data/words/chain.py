"""A chain of events, each of which changes how many things somebody has."""

import random
from collections.abc import Callable

from cdlm.training.data.arithmetic import add, div, mul, sub
from cdlm.training.data.problem import Problem
from cdlm.training.data.words.parts import NAMES, THINGS, word_problem

Event = Callable[[random.Random, int, str], tuple[str, str, int] | None]


def _gain(rng: random.Random, have: int, thing: str) -> tuple[str, str, int]:  # noqa: ARG001
    count = rng.randint(3, 95)
    verb = rng.choice(("finds", "buys", "gets", "wins"))
    return f"{verb} {count} more", f"{verb.capitalize()} {count}: {add(have, count)}.", have + count


def _packs(rng: random.Random, have: int, thing: str) -> tuple[str, str, int]:
    packs, each = rng.randint(2, 9), rng.randint(3, 24)
    pack = rng.choice(("bags", "boxes", "packs"))
    total = packs * each
    text = f"buys {packs} {pack} of {each} {thing}"
    return text, f"{packs} {pack} of {each}: {mul(packs, each)}. {add(have, total)}.", have + total


def _lose(rng: random.Random, have: int, thing: str) -> tuple[str, str, int] | None:  # noqa: ARG001
    if have < 12:
        return None
    count = rng.randint(3, min(have - 5, 95))
    verb = rng.choice(("gives away", "loses", "sells"))
    return f"{verb} {count}", f"{verb.capitalize()} {count}: {sub(have, count)}.", have - count


def _give_friends(rng: random.Random, have: int, thing: str) -> tuple[str, str, int] | None:
    friends, each = rng.randint(2, 9), rng.randint(2, 12)
    total = friends * each
    if total + 4 > have:
        return None
    text = f"gives {each} {thing} to each of {friends} friends"
    return text, f"Gives {friends} friends {each}: {mul(friends, each)}. {sub(have, total)}.", have - total


def _half(rng: random.Random, have: int, thing: str) -> tuple[str, str, int] | None:
    if have % 2 or have < 8 or have > 200:
        return None
    verb = rng.choice(("sells", "loses"))
    return f"{verb} half of the {thing}", f"{verb.capitalize()} half: {div(have, 2)}.", have // 2


def _double(rng: random.Random, have: int, thing: str) -> tuple[str, str, int] | None:
    times = rng.choice((2, 2, 3))
    if have > 150:
        return None
    word = "doubles" if times == 2 else "triples"
    line = f"{word.capitalize()}: {mul(have, times)}."
    return f"{word} the number of {thing}", line, have * times


_EVENTS: tuple[Event, ...] = (_gain, _packs, _lose, _lose, _give_friends, _half, _double)


def chain(rng: random.Random) -> Problem:
    """Two to four events change how many things somebody has."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have = rng.randint(5, 90)
    clauses = [f"{name} {rng.choice(('has', 'starts with'))} {have} {thing}."]
    lines = [f"{name} starts with {have} {thing}."]
    links = ("Then {} {}.", "Next {} {}.", "After that {} {}.")
    wanted = rng.choice((2, 3, 3, 4))
    last: Event | None = None
    while len(lines) <= wanted:
        event = rng.choice(_EVENTS)
        if event is last:
            continue
        outcome = event(rng, have, thing)
        if outcome is None:
            continue
        clause, line, have = outcome
        last = event
        clauses.append(rng.choice(links).format(name, clause))
        lines.append(line)
    question = rng.choice((f"How many {thing} does {name} have now?", f"How many {thing} are left at the end?"))
    return word_problem(" ".join((*clauses, question)), lines, have)
