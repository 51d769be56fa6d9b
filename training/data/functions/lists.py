"""Functions over lists of integers: filter, change and aggregate, plus well-known stand-alone ones."""

import random
from dataclasses import replace

from cdlm.training.data.functions.spec import Entry, Spec, loop_body, pick_name
from cdlm.training.data.functions.terms import EVERYTHING, UNCHANGED, Term, draw_change, draw_condition

ENTRIES = (
    Entry(("running_sum", "running_total"), "nums", ("a list of the running sums of nums",),
          "total = 0\nresult = []\nfor n in nums:\n    total += n\n    result.append(total)\nreturn result"),
    Entry(("differences", "steps"), "nums", ("a list of the differences between neighbors in nums",),
          "result = []\nfor i in range(1, len(nums)):\n    result.append(nums[i] - nums[i - 1])\n"
          "return result"),
    Entry(("dot", "dot_product"), "nums, other", ("the dot product of nums and other",),
          "total = 0\nfor a, b in zip(nums, other):\n    total += a * b\nreturn total"),
    Entry(("pair_sums", "add_lists"), "nums, other", ("a list of the sums of the pairs from nums and other",),
          "return [a + b for a, b in zip(nums, other)]"),
    Entry(("common", "in_both"), "nums, other", ("a list of the numbers in nums that are also in other",),
          "return [n for n in nums if n in other]"),
    Entry(("missing", "not_in_other"), "nums, other",
          ("a list of the numbers in nums that are not in other",),
          "return [n for n in nums if n not in other]"),
    Entry(("every_kth", "take_every"), "nums, k",
          ("a list of every k-th number in nums, starting with the first",),
          "return nums[::k]"),
    Entry(("every_@", "take_every_@"), "nums",
          ("a list of every @-th number in nums, starting with the first",),
          "return nums[::@]", high=4),
    Entry(("first_@", "take_@"), "nums",
          ("a list of the first @ numbers in nums",), "return nums[:@]", high=5),
    Entry(("last_@", "end_@"), "nums", ("a list of the last @ numbers in nums",), "return nums[-@:]", high=5),
    Entry(("drop_@", "skip_@"), "nums", ("nums without its first @ numbers",), "return nums[@:]", high=5),
    Entry(("rotate", "rotate_left"), "nums, k",
          ("nums rotated left by k places, or an empty list if nums is empty",),
          "if not nums:\n    return []\nk = k % len(nums)\nreturn nums[k:] + nums[:k]"),
    Entry(("chunks", "split_list"), "nums, k",
          ("nums split into lists of k numbers; the last list may be shorter",),
          "result = []\nfor i in range(0, len(nums), k):\n    result.append(nums[i:i + k])\nreturn result"),
    Entry(("swap_ends", "swap"), "nums",
          ("nums with the first and last numbers swapped", "a list like nums with its two ends swapped"),
          "if len(nums) < 2:\n    return nums\nreturn [nums[-1]] + nums[1:-1] + [nums[0]]"),
    Entry(("unique", "remove_repeats"), "nums", ("a list of the numbers in nums without repeats",),
          "result = []\nfor n in nums:\n    if n not in result:\n        result.append(n)\nreturn result"),
    Entry(("has_repeats", "any_repeats"), "nums", ("True if nums has repeats and False otherwise",),
          "return len(set(nums)) < len(nums)"),
    Entry(("second_largest", "runner_up"), "nums",
          ("the second largest different number in nums, or None if there is none",),
          "kept = sorted(set(nums))\nif len(kept) < 2:\n    return None\nreturn kept[-2]"),
    Entry(("spread", "value_range"), "nums",
          ("the largest minus the smallest number in nums, or 0 if nums is empty",),
          "if not nums:\n    return 0\nreturn max(nums) - min(nums)"),
    Entry(("index_of_largest", "where_largest"), "nums",
          ("the index of the largest number in nums, or -1 if empty",),
          "if not nums:\n    return -1\nreturn nums.index(max(nums))"),
    Entry(("is_sorted", "in_order"), "nums", ("True if nums is sorted and False otherwise",),
          "for i in range(1, len(nums)):\n    if nums[i] < nums[i - 1]:\n        return False\nreturn True"),
    Entry(("zeros_last", "move_zeros"), "nums", ("nums with all zeros moved to the end",),
          "kept = [n for n in nums if n != 0]\nreturn kept + [0] * (len(nums) - len(kept))"),
    Entry(("reverse", "reverse_list"), "nums", ("nums reversed", "a list of the numbers in nums reversed"),
          "return nums[::-1]"),
    Entry(("sort_down", "largest_first"), "nums", ("nums sorted from largest to smallest",),
          "return sorted(nums, reverse=True)"),
    Entry(("count_x", "how_many"), "nums, x", ("how many times x is in nums", "the count of x in nums"),
          "count = 0\nfor n in nums:\n    if n == x:\n        count += 1\nreturn count"),
    Entry(("without", "remove_x"), "nums, x", ("a list of the numbers in nums without x",),
          "return [n for n in nums if n != x]"),
    Entry(("clip_list", "limit_list"), "nums",
          ("a list of the numbers in nums, with those above @ replaced by @",),
          "return [min(n, @) for n in nums]"),
    Entry(("largest_step", "biggest_jump"), "nums",
          ("the largest absolute difference between neighbors in nums, or 0 if there is none",),
          "best = 0\nfor i in range(1, len(nums)):\n"
          "    best = max(best, abs(nums[i] - nums[i - 1]))\nreturn best"),
    Entry(("pair_with_sum", "has_pair"), "nums",
          ("True if two numbers in nums add up to @ and False otherwise",),
          "for i in range(len(nums)):\n    for j in range(i + 1, len(nums)):\n"
          "        if nums[i] + nums[j] == @:\n            return True\nreturn False"),
)  # fmt: skip

_OPERATORS = (("plus", "+"), ("minus", "-"), ("times", "*"))
_VERBS = {
    "sum": ("sum", "total", "add"), "product": ("product", "multiply"), "count": ("count", "number"),
    "list": ("list", "get", "keep"), "sorted": ("sort", "sorted"), "reversed": ("reverse", "reversed"),
    "max": ("largest", "max"), "min": ("smallest", "min"), "average": ("average", "mean"),
    "first": ("first", "find"), "last": ("last", "find_last"), "any": ("any", "has"),
    "only": ("only", "all"), "index": ("index", "where"),
}  # fmt: skip
_WITHOUT_CHANGE = ("count", "any", "only", "index")
_WITH_CONDITION = ("first", "last", "any", "only", "index", "count")


def _names(verb: str, condition: Term, change: Term) -> list[str]:
    tags = [tag for tag in (condition.tag, change.tag) if tag]
    if len(tags) > 1 and condition is EVERYTHING:
        tags = tags[1:]
    content = "_".join(tags)
    return [f"{word}_{content}" for word in _VERBS[verb]] + [f"{content}_{_VERBS[verb][0]}"]


def _values(condition: Term, change: Term) -> str:
    test = f" if {condition.on('n')}" if condition.code else ""
    return f"[{change.on('n')} for n in nums{test}]"


def _aggregate(rng: random.Random, verb: str, condition: Term, change: Term) -> tuple[str, list[str]]:
    value, test = change.on("n"), condition.on("n")
    changed = f", {change.phrase}" if change.phrase else ""
    each = f", each {change.phrase}" if change.phrase else ""
    of_all = f"the {condition.plural()} in nums{each}"
    if changed and rng.random() < 0.3:
        of_all = f"the {condition.plural()} in nums after each is {change.phrase}"
    one = condition.singular()
    if verb == "sum":
        word = rng.choice(("sum", "total"))
        body = ["total = 0", "for n in nums:", *loop_body(test, f"total += {value}"), "return total"]
        return f"the {word} of {of_all}", body
    if verb == "product":
        body = ["product = 1", "for n in nums:", *loop_body(test, f"product *= {value}"), "return product"]
        return f"the product of {of_all}, or 1 if there are none", body
    if verb == "count":
        start = rng.choice(("the count of {} in nums", "how many {} are in nums", "the number of {} in nums"))
        body = ["count = 0", "for n in nums:", *loop_body(test, "count += 1"), "return count"]
        return start.format(condition.plural()), body
    if verb in ("list", "sorted", "reversed"):
        ending = {"list": "result", "sorted": "sorted(result)", "reversed": "result[::-1]"}[verb]
        kind = {"list": "a list", "sorted": "a sorted list", "reversed": "a reversed list"}[verb]
        body = ["result = []", "for n in nums:", *loop_body(test, f"result.append({value})"), f"return {ending}"]
        return f"{kind} of {of_all}", body
    if verb in ("max", "min"):
        default = rng.choice(("0", "-1", "None"))
        word = "largest" if verb == "max" else "smallest"
        body = [f"kept = {_values(condition, change)}", f"return {verb}(kept, default={default})"]
        return f"the {word} of {of_all}, or {default} if there are none", body
    if verb == "average":
        kept = f"kept = {_values(condition, change)}"
        body = [kept, "if not kept:", "    return 0", "return sum(kept) / len(kept)"]
        return f"the average of {of_all}, or 0 if there are none", body
    if verb in ("first", "last"):
        default = rng.choice(("0", "-1", "None"))
        loop = "for n in nums:" if verb == "first" else "for n in reversed(nums):"
        body = [loop, f"    if {test}:", f"        return {value}", f"return {default}"]
        return f"the {verb} {one} in nums{changed}, or {default} if there is none", body
    if verb == "index":
        body = ["for i, n in enumerate(nums):", f"    if {test}:", "        return i", "return -1"]
        return f"the index of the first {one} in nums, or -1 if there is none", body
    if verb == "any":
        body = [f"return any({test} for n in nums)"]
        return f"True if there is any {one} in nums and False otherwise", body
    body = [f"return all({test} for n in nums)"]
    return f"True if nums has only {condition.plural()} or is empty and False otherwise", body


def _pipeline(rng: random.Random) -> Spec:
    verb = rng.choice(tuple(_VERBS))
    symbol = "k" if rng.random() < 0.15 else ""
    condition = draw_condition(rng, symbol=symbol)
    if not symbol and verb not in _WITH_CONDITION and rng.random() < 0.2:
        condition = EVERYTHING
    change = UNCHANGED if verb in _WITHOUT_CHANGE or rng.random() < 0.4 else draw_change(rng)
    purpose, body = _aggregate(rng, verb, condition, change)
    name = pick_name(rng, _names(verb, condition, change))
    params = "nums, k" if symbol else "nums"
    return Spec(name, params, purpose, tuple(body), pivot=condition.pivot)


def _branch(rng: random.Random) -> Spec:
    condition, left, right = draw_condition(rng), draw_change(rng), draw_change(rng)
    if rng.random() < 0.4:
        right = replace(UNCHANGED, phrase="unchanged", tag="rest")
    body = (
        "result = []",
        "for n in nums:",
        f"    if {condition.on('n')}:",
        f"        result.append({left.on('n')})",
        "    else:",
        f"        result.append({right.on('n')})",
        "return result",
    )
    purpose = f"nums with the {condition.plural()} {left.phrase} and all others {right.phrase}"
    names = (f"change_{condition.tag}", f"{condition.tag}_{left.tag}", "change_list")
    return Spec(pick_name(rng, names), "nums", purpose, body, pivot=condition.pivot)


def _combination(rng: random.Random) -> Spec:
    left, right = draw_condition(rng), draw_condition(rng)
    sides = (left, right)
    pivot = left.pivot or right.pivot
    if rng.random() < 0.3:
        purpose = f"True if there are more {left.plural()} than {right.plural()} in nums and False otherwise"
        names = (f"more_{left.tag}", f"{left.tag}_or_{right.tag}")
        totals = [f"sum(1 for n in nums if {side.on('n')})" for side in sides]
        result = "a > b"
    else:
        word, symbol = rng.choice(_OPERATORS)
        kinds = [rng.choice(("sum", "count")) for _ in range(2)]
        operands = [f"the {kind} of the {side.plural()}" for kind, side in zip(kinds, sides, strict=True)]
        purpose = f"{operands[0]} {word} {operands[1]} in nums"
        names = (f"{left.tag}_{word}_{right.tag}", f"{kinds[0]}_{word}_{kinds[1]}")
        totals = [
            f"sum({'n' if kind == 'sum' else '1'} for n in nums if {side.on('n')})"
            for kind, side in zip(kinds, sides, strict=True)
        ]
        result = f"a {symbol} b"
    body = (f"a = {totals[0]}", f"b = {totals[1]}", f"return {result}")
    return Spec(pick_name(rng, names), "nums", purpose, body, pivot=pivot)


KINDS = ((0.6, _pipeline), (0.7, _branch), (0.8, _combination))
