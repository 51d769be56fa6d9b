"""Functions over single integers: sums over ranges, digits, divisors, conditions."""

import random

from cdlm.training.data.functions.spec import Entry, Spec, loop_body, pick_name
from cdlm.training.data.functions.terms import EVERYTHING, UNCHANGED, draw_change, draw_condition

ENTRIES = (
    Entry(("factorial", "fact"), "n", ("the factorial of n", "n factorial"),
          "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result"),
    Entry(("gcd", "common_divisor"), "a, b", ("the greatest common divisor of a and b",),
          "while b:\n    a, b = b, a % b\nreturn a"),
    Entry(("lcm", "common_multiple"), "a, b", ("the least common multiple of a and b",),
          "result = a\nwhile result % b != 0:\n    result += a\nreturn result"),
    Entry(("power", "raise_to"), "x, k", ("x to the power k",),
          "result = 1\nfor i in range(k):\n    result *= x\nreturn result"),
    Entry(("clamp", "limit"), "x, a, b",
          ("x limited to at least a and at most b",), "return min(max(x, a), b)"),
    Entry(("clamp_@", "limit_@"), "x",
          ("x limited to at least 0 and at most @",), "return min(max(x, 0), @)"),
    Entry(("is_prime", "prime"), "n", ("True if n is prime and False otherwise",),
          "if n < 2:\n    return False\nfor i in range(2, n):\n    if n % i == 0:\n"
          "        return False\nreturn True"),
    Entry(("primes", "list_primes"), "n", ("a list of the primes less than n",),
          "result = []\nfor i in range(2, n):\n    if all(i % j != 0 for j in range(2, i)):\n"
          "        result.append(i)\nreturn result"),
    Entry(("fibonacci", "fib"), "n", ("the n-th number of fibonacci, starting with 0 and 1",),
          "a, b = 0, 1\nfor i in range(n):\n    a, b = b, a + b\nreturn a"),
    Entry(("fib_list", "fibonacci_list"), "n",
          ("a list of the first n numbers of fibonacci, starting with 0 and 1",),
          "a, b = 0, 1\nresult = []\nfor i in range(n):\n    result.append(a)\n    a, b = b, a + b\n"
          "return result"),
    Entry(("collatz", "collatz_steps"), "n",
          ("the count of collatz steps from n to 1, or 0 if n is less than 1",),
          "count = 0\nwhile n > 1:\n    if n % 2 == 0:\n        n = n // 2\n    else:\n"
          "        n = 3 * n + 1\n    count += 1\nreturn count"),
    Entry(("divisors", "list_divisors"), "n", ("a list of the divisors of n",),
          "return [i for i in range(1, n + 1) if n % i == 0]"),
    Entry(("count_divisors", "number_divisors"), "n", ("the count of the divisors of n",),
          "count = 0\nfor i in range(1, n + 1):\n    if n % i == 0:\n        count += 1\nreturn count"),
    Entry(("is_perfect", "perfect"), "n",
          ("True if n is positive and equal to the sum of its divisors less than n",),
          "total = 0\nfor i in range(1, n):\n    if n % i == 0:\n        total += i\n"
          "return n > 0 and total == n"),
    Entry(("reverse_digits", "reverse_number"), "n",
          ("n with its digits reversed",), "return int(str(n)[::-1])"),
    Entry(("digits", "list_digits"), "n", ("a list of the digits of n",), "return [int(c) for c in str(n)]"),
    Entry(("add_digits", "digit_root"), "n",
          ("the sum of the digits of n, repeated until one digit is left",),
          "while n > 9:\n    n = sum(int(c) for c in str(n))\nreturn n"),
    Entry(("sign", "sign_of"), "x", ("1 if x is positive, -1 if x is negative and 0 otherwise",),
          "if x > 0:\n    return 1\nif x < 0:\n    return -1\nreturn 0"),
    Entry(("largest_of_three", "max_three"), "x, y, z", ("the largest of x, y and z",),
          "best = x\nif y > best:\n    best = y\nif z > best:\n    best = z\nreturn best"),
    Entry(("middle", "middle_of_three"), "x, y, z",
          ("the middle one of x, y and z",), "return sorted([x, y, z])[1]"),
    Entry(("distance", "gap"), "x, y", ("the absolute difference between x and y",), "return abs(x - y)"),
    Entry(("binary", "to_binary"), "n", ("the binary digits of n as a string, or '0' if n is 0",),
          "if n == 0:\n    return '0'\nresult = ''\nwhile n > 0:\n    result = str(n % 2) + result\n"
          "    n = n // 2\nreturn result"),
    Entry(("countdown", "count_down"), "n", ("a list of the numbers from n down to 1",),
          "result = []\nwhile n > 0:\n    result.append(n)\n    n -= 1\nreturn result"),
    Entry(("multiples", "list_multiples"), "n, k", ("a list of the first n multiples of k",),
          "return [k * i for i in range(1, n + 1)]"),
    Entry(("multiples_of_@", "list_multiples"), "n", ("a list of the first n multiples of @",),
          "return [@ * i for i in range(1, n + 1)]"),
    Entry(("times_table", "table"), "n, k", ("a list of n times each number from 1 to k",),
          "return [n * i for i in range(1, k + 1)]"),
    Entry(("halve", "count_halves"), "n", ("how many times n can be halved rounding down until it is 0",),
          "count = 0\nwhile n > 0:\n    n = n // 2\n    count += 1\nreturn count"),
    Entry(("divide_out_@", "count_factor_@"), "n",
          ("how many times @ divides n, or 0 if n is 0",),
          "count = 0\nwhile n > 0 and n % @ == 0:\n    n = n // @\n    count += 1\nreturn count", high=7),
)  # fmt: skip

_LABELS = (("big", "small"), ("yes", "no"), ("high", "low"), ("good", "bad"), ("hot", "cold"))
_SOUNDS = ("fizz", "buzz", "ping", "pong", "tick", "tock")


def _span(rng: random.Random) -> Spec:
    kind = rng.choice(("sum", "count", "list"))
    condition = draw_condition(rng, signed=False)
    change = UNCHANGED if kind == "count" or rng.random() < 0.3 else draw_change(rng, signed=False)
    if kind != "count" and rng.random() < 0.25:
        condition = EVERYTHING
    stop, limit = rng.choice((("n + 1", "from 1 to n"), ("n", "from 1 to n, without n")))
    each = f", each {change.phrase}" if change.phrase else ""
    start = {"sum": rng.choice(("the sum", "the total")), "count": "the count", "list": "a list"}[kind]
    variable, first, action = {
        "sum": ("total", "0", f"total += {change.on('i')}"),
        "count": ("count", "0", "count += 1"),
        "list": ("result", "[]", f"result.append({change.on('i')})"),
    }[kind]
    lines = loop_body(condition.on("i"), action)
    body = (f"{variable} = {first}", f"for i in range(1, {stop}):", *lines, f"return {variable}")
    content = "_".join(tag for tag in (condition.tag, change.tag) if tag)
    name = pick_name(rng, (f"{kind}_{content}", f"{kind}_to_n", f"{content}_{kind}"))
    return Spec(name, "n", f"{start} of the {condition.plural()} {limit}{each}", body, pivot=condition.pivot)


def _digits(rng: random.Random) -> Spec:
    kind = rng.choice(("sum", "count", "product", "largest"))
    pivot = rng.randint(2, 8)
    phrase, tag, test = rng.choice(
        (
            ("digits", "digits", ""),
            ("even digits", "even_digits", "d % 2 == 0"),
            ("odd digits", "odd_digits", "d % 2 == 1"),
            (f"digits greater than {pivot}", f"digits_above_{pivot}", f"d > {pivot}"),
            (f"digits less than {pivot}", f"digits_below_{pivot}", f"d < {pivot}"),
            (f"digits not equal to {pivot}", f"digits_not_{pivot}", f"d != {pivot}"),
        )
    )
    variable, first, action, default = {
        "sum": ("total", "0", "total += d", ""),
        "count": ("count", "0", "count += 1", ""),
        "product": ("product", "1", "product *= d", ", or 1 if there are none" if test else ""),
        "largest": ("best", "-1", "best = max(best, d)", ", or -1 if there are none" if test else ""),
    }[kind]
    lines = loop_body(test, action)
    body = (f"{variable} = {first}", "for c in str(n):", "    d = int(c)", *lines, f"return {variable}")
    name = pick_name(rng, (f"{kind}_{tag}", f"{tag}_{kind}"))
    return Spec(name, "n", f"the {kind} of the {phrase} of n{default}", body, pivot=50 * pivot)


def _choice(rng: random.Random) -> Spec:
    condition = draw_condition(rng)
    test = condition.plural().replace("numbers", "").split()
    described = " ".join(test).replace("of at", "at")
    if rng.random() < 0.4:
        yes, no = rng.choice(_LABELS)
        yes, no = (yes, no) if rng.random() < 0.5 else (no, yes)
        left, right, words = repr(yes), repr(no), (repr(yes), repr(no))
    else:
        first, second = draw_change(rng), draw_change(rng)
        left, right, words = first.on("x"), second.on("x"), (f"x {first.phrase}", f"x {second.phrase}")
    body = (f"if {condition.on('x')}:", f"    return {left}", f"return {right}")
    name = pick_name(rng, (f"check_{condition.tag}", f"if_{condition.tag}", f"choose_{condition.tag}"))
    if condition.phrase.startswith("even ") or condition.phrase.startswith("odd "):
        parity, _, bound = described.partition(" ")
        described = f"{parity} and {bound}" if bound else parity
    purpose = f"{words[0]} if x is {described} and {words[1]} otherwise"
    return Spec(name, "x", purpose, body, pivot=condition.pivot)


def _formula(rng: random.Random) -> Spec:
    operators = (("plus", "+"), ("minus", "-"), ("times", "*"))
    (word, symbol), constant = rng.choice(operators), rng.randint(2, 20)
    outer_word, outer = rng.choice(operators)
    inner = f"x {symbol} y"
    if outer == "*" and symbol != "*":
        purpose, value = f"the value of x {word} y, all times {constant}", f"({inner}) * {constant}"
    else:
        purpose, value = f"the value of x {word} y {outer_word} {constant}", f"{inner} {outer} {constant}"
    names = (f"{word}_{outer_word}_{constant}", f"x_{word}_y")
    return Spec(pick_name(rng, names), "x, y", purpose, (f"return {value}",))


def _sounds(rng: random.Random) -> Spec:
    first, second = rng.sample(range(2, 10), 2)
    left, right = rng.sample(_SOUNDS, 2)
    symbolic = rng.random() < 0.3
    a, b = ("a", "b") if symbolic else (str(first), str(second))
    body = (
        "result = ''", f"if n % {a} == 0:", f"    result += '{left}'",
        f"if n % {b} == 0:", f"    result += '{right}'", "return result or str(n)",
    )  # fmt: skip
    purpose = f"'{left}' if {a} divides n plus '{right}' if {b} divides n, or n as a string if it is empty"
    name = pick_name(rng, (f"{left}_{right}", f"{left}{right}"))
    return Spec(name, "n, a, b" if symbolic else "n", purpose, body, pivot=0 if symbolic else first * second)


KINDS = ((0.3, _span), (0.4, _digits), (0.6, _choice), (0.67, _formula), (0.74, _sounds))
