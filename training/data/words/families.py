"""Grade-school word problems of two to five dependent steps, with worked solutions.

A problem is a family (a situation) filled with people, things and numbers. The worked solution writes one
step a line and ends with ``The answer is N.``; ``extract_answer`` reads it back.
"""

import random
from collections.abc import Callable

from cdlm.training.data.arithmetic import add, div, mul, sub
from cdlm.training.data.problem import Problem
from cdlm.training.data.words.chain import chain
from cdlm.training.data.words.parts import GOODS, NAMES, THINGS, word_problem


def shopping(rng: random.Random) -> Problem:
    """Several goods at unit prices, paid with a note or followed by a discount."""
    name = rng.choice(NAMES)
    goods = rng.sample(GOODS, rng.choice((2, 2, 3)))
    counts = [rng.randint(2, 9) for _ in goods]
    prices = [rng.randint(2, 19) for _ in goods]
    listing = [f"{count} {good}s at ${price} each" for count, good, price in zip(counts, goods, prices, strict=True)]
    text = f"{name} buys " + ", ".join(listing[:-1]) + f" and {listing[-1]}."
    costs = [count * price for count, price in zip(counts, prices, strict=True)]
    bought = zip(goods, counts, prices, strict=True)
    lines = [f"{good.capitalize()}s: {mul(count, price)}." for good, count, price in bought]
    total = sum(costs)
    lines.append(f"Total: {add(*costs)}.")
    kind = rng.choice(("total", "change", "change", "coupon", "saved"))
    if kind == "total":
        return word_problem(f"{text} How much does {name} pay in total?", lines, total)
    if kind == "change":
        note = next(note for note in (50, 100, 200, 500, 1000) if note > total)
        lines.append(f"Change: {sub(note, total)}.")
        return word_problem(f"{text} {name} pays with ${note}. How much change does {name} get?", lines, note - total)
    if kind == "coupon":
        off = rng.randint(2, 9)
        lines.append(f"Coupon: {sub(total, off)}.")
        return word_problem(f"{text} A coupon takes ${off} off. How much does {name} pay?", lines, total - off)
    saved = total - rng.randint(5, total - 3) if total > 10 else 3
    lines.append(f"Missing: {sub(total, saved)}.")
    return word_problem(f"{text} {name} has only ${saved}. How much money is missing?", lines, total - saved)


def compare(rng: random.Random) -> Problem:
    """Two or three people whose counts depend on each other; asked for the sum or a difference."""
    first, second, third = rng.sample(NAMES, 3)
    thing = rng.choice(THINGS)
    one = rng.randint(6, 60)
    text = [f"{first} has {one} {thing}."]
    lines = [f"{first} has {one}."]
    relation = rng.choice(("more", "fewer", "times"))
    if relation == "times":
        factor = rng.randint(2, 6)
        two = one * factor
        text.append(f"{second} has {factor} times as many {thing} as {first}.")
        lines.append(f"{second}: {mul(one, factor)}.")
    elif relation == "more":
        extra = rng.randint(4, 50)
        two = one + extra
        text.append(f"{second} has {extra} more {thing} than {first}.")
        lines.append(f"{second}: {add(one, extra)}.")
    else:
        extra = rng.randint(2, one - 3)
        two = one - extra
        text.append(f"{second} has {extra} fewer {thing} than {first}.")
        lines.append(f"{second}: {sub(one, extra)}.")
    counts = [one, two]
    if rng.random() < 0.6:
        extra = rng.randint(3, 40)
        three = two + extra
        text.append(f"{third} has {extra} more than {second}.")
        lines.append(f"{third}: {add(two, extra)}.")
        counts.append(three)
    if rng.random() < 0.3:
        friends = rng.choice((2, 3, 4, 5))
        total = sum(counts)
        spare = total % friends
        lines.append(f"Together: {add(*counts)}.")
        text.append(f"They share all {thing} equally among {friends} children and keep the rest.")
        question = "How many does each child get?"
        lines.append(f"{total}={total - spare}+{spare}. Each: {div(total - spare, friends)}.")
        return word_problem(" ".join((*text, question)), lines, total // friends)
    lines.append(f"Together: {add(*counts)}.")
    return word_problem(" ".join((*text, f"How many {thing} do they have together?")), lines, sum(counts))


def wages(rng: random.Random) -> Problem:
    """Hourly pay over days, then spending."""
    name = rng.choice(NAMES)
    rate, hours, days = rng.randint(5, 19), rng.randint(2, 8), rng.randint(2, 6)
    day, total = rate * hours, rate * hours * days
    text = [f"{name} earns ${rate} per hour and works {hours} hours a day for {days} days."]
    lines = [f"A day: {mul(rate, hours)}.", f"{days} days: {mul(day, days)}."]
    if rng.random() < 0.6:
        spend = rng.randint(4, min(total - 2, 95))
        item = rng.choice(GOODS)
        text.append(f"Then {name} buys a {item} for ${spend}.")
        lines.append(f"After the {item}: {sub(total, spend)}.")
        total -= spend
        question = f"How much money does {name} have left?"
    else:
        question = f"How much does {name} earn in all?"
    if rng.random() < 0.3:
        bonus = rng.randint(5, 60)
        text.append(f"At the end {name} gets a bonus of ${bonus}.")
        lines.append(f"Bonus: {add(total, bonus)}.")
        total += bonus
    return word_problem(" ".join((*text, question)), lines, total)


def travel(rng: random.Random) -> Problem:
    """Legs of speed times hours; asked for the distance, or for what remains."""
    name = rng.choice(NAMES)
    vehicle = rng.choice(("drives", "rides", "sails"))
    speeds = [rng.randint(11, 79), rng.randint(11, 79)]
    hours = [rng.randint(2, 6), rng.randint(2, 6)]
    legs = [speed * hour for speed, hour in zip(speeds, hours, strict=True)]
    legs_text = [f"{hour} hours at {speed} miles per hour" for speed, hour in zip(speeds, hours, strict=True)]
    text = f"{name} {vehicle} {legs_text[0]} and then {legs_text[1]}."
    lines = [f"First part: {mul(speeds[0], hours[0])}.", f"Second part: {mul(speeds[1], hours[1])}."]
    lines.append(f"Total: {add(*legs)}.")
    total = sum(legs)
    if rng.random() < 0.5:
        return word_problem(f"{text} How many miles is that in all?", lines, total)
    rest = rng.randint(5, 95)
    lines.append(f"Left: {sub(total + rest, total)}.")
    return word_problem(f"{text} The whole trip is {total + rest} miles. How many miles are left?", lines, rest)


def garden(rng: random.Random) -> Problem:
    """A rectangle: its perimeter or area, and what fencing or planting it costs."""
    name = rng.choice(NAMES)
    width, extra = rng.randint(3, 9), rng.randint(2, 30)
    length, price = width + extra, rng.randint(2, 9)
    place = rng.choice(("garden", "field", "yard"))
    text = f"{name} has a {place} that is {width} meters wide and {extra} meters longer than it is wide."
    lines = [f"Length: {add(width, extra)}."]
    if rng.random() < 0.5:
        half = width + length
        lines += [f"Half way around: {add(width, length)}.", f"Fence: {mul(half, 2)}."]
        lines.append(f"Cost: {mul(half * 2, price)}.")
        question = f"A fence costs ${price} per meter. How much does a fence around the {place} cost?"
        return word_problem(f"{text} {question}", lines, half * 2 * price)
    lines.append(f"Area: {mul(width, length)}.")
    plants = width * length
    if rng.random() < 0.5:
        used = rng.randint(3, min(plants - 2, 95))
        lines.append(f"Free: {sub(plants, used)}.")
        question = f"A shed takes {used} square meters. How many square meters are free?"
        return word_problem(f"{text} {question}", lines, plants - used)
    return word_problem(f"{text} What is the area of the {place} in square meters?", lines, plants)


def packing(rng: random.Random) -> Problem:
    """Boxes are filled, some are damaged or sold; asked for what remains."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each = rng.randint(4, 20), rng.randint(4, 9)
    gone = rng.randint(2, boxes - 2)
    broken = rng.randint(2, each * (boxes - gone) - 3)
    left = boxes - gone
    text = [f"{name} packs {boxes} boxes with {each} {thing} each.", f"{gone} boxes are sold."]
    lines = [f"Boxes left: {sub(boxes, gone)}.", f"{thing.capitalize()}: {mul(left, each)}."]
    count = left * each
    if rng.random() < 0.6:
        fate = "from the other boxes are eaten" if thing in _FOOD else "get lost"
        text.append(f"Then {broken} {thing} {fate}.")
        lines.append(f"Minus {broken}: {sub(count, broken)}.")
        count -= broken
    return word_problem(" ".join((*text, f"How many {thing} are left?")), lines, count)


_FOOD = ("apples", "cookies", "oranges", "eggs", "candies", "peaches")


def reading(rng: random.Random) -> Problem:
    """Pages read at two paces; asked for the days the rest takes."""
    name = rng.choice(NAMES)
    pace, days = rng.randint(6, 30), rng.randint(2, 7)
    later, rest_days = rng.randint(4, 12), rng.randint(2, 12)
    done, rest = pace * days, later * rest_days
    text = (
        f"{name} reads a book of {done + rest} pages. For {days} days {name} reads {pace} pages a day. "
        f"After that {name} reads {later} pages a day. How many more days does {name} need?"
    )
    lines = [f"Read: {mul(pace, days)}.", f"Left: {sub(done + rest, done)}.", f"Days: {div(rest, later)}."]
    return word_problem(text, lines, rest_days)


def sharing(rng: random.Random) -> Problem:
    """Two collections are put together and shared equally."""
    first, second = rng.sample(NAMES, 2)
    thing = rng.choice(THINGS)
    people, each = rng.randint(3, 9), rng.randint(4, 12)
    total = people * each
    one = rng.randint(3, total - 3)
    eaten = rng.randint(1, each - 1)
    text = (
        f"{first} brings {one} {thing} and {second} brings {total - one} {thing} to class. "
        f"They are shared equally by {people} children. Each child gives {eaten} to the teacher. "
    )
    lines = [f"Together: {add(one, total - one)}.", f"Each child: {div(total, people)}."]
    if rng.random() < 0.5:
        lines.append(f"Kept: {sub(each, eaten)}.")
        return word_problem(text + f"How many {thing} does each child keep?", lines, each - eaten)
    lines[1:] = [f"Given: {mul(people, eaten)}.", f"Kept: {sub(total, people * eaten)}."]
    return word_problem(text + f"How many {thing} do the children keep in all?", lines, total - people * eaten)


FAMILIES: tuple[Callable[[random.Random], Problem], ...] = (
    chain, chain, chain, shopping, shopping, compare, compare, wages, travel, garden, packing, reading, sharing,
)  # fmt: skip


def generate(rng: random.Random) -> Problem:
    """A fresh word problem of a random family."""
    return rng.choice(FAMILIES)(rng)
