"""Arithmetic written out the way a pupil would: every ``=`` does one thing a table or one carry can do.

Sums and differences move one place at a time, products are split by place, quotients into tens and ones. Except for
quotients, how many steps there are follows from how many digits the operands have, hardly from which: so the place of
a later number can be foretold before the earlier ones are known, and a block can be worked on at many places at once.
"""

from collections.abc import Sequence


def add(*terms: int) -> str:
    """``add(47, 38)`` -> ``"47+38=77+8=85"``: the second term moves into the first place by place, a last 0 too."""
    text = _join(terms)
    while len(terms) > 1:
        first, second, *rest = terms
        top = _top_place(second)
        terms = (first + top, *([second - top] if second >= 10 else []), *rest)
        text += "=" + _join(terms)
    return text


def sub(left: int, right: int) -> str:
    """``sub(92, 38)`` -> ``"92-38=62-8=54"``: subtracts the largest place first; a last 0 is a step too."""
    text = f"{left}-{right}"
    more = True
    while more:
        more = right >= 10
        top = _top_place(right)
        left, right = left - top, right - top
        text += f"={left}-{right}" if more else f"={left}"
    return text


def mul(left: int, right: int) -> str:
    """``mul(24, 7)`` -> ``"24*7=140+28=168"``; products inside the times table are stated directly."""
    big, small = max(left, right), min(left, right)
    if big <= 10 or small <= 1:
        return f"{left}*{right}={left * right}"
    digits = str(big)
    parts = [int(digit) * 10 ** (len(digits) - 1 - index) * small for index, digit in enumerate(digits)]
    text = f"{left}*{right}={_join(parts)}"
    while len(parts) > 1:
        parts[:2] = [parts[0] + parts[1]]
        text += "=" + _join(parts)
    return text


def div(left: int, right: int) -> str:
    """``div(84, 4)`` -> ``"84/4=80/4+4/4=20+1=21"``; quotients up to 12 are stated directly.

    Raises:
        ValueError: ``right`` does not divide ``left``.
    """
    if left % right:
        raise ValueError(f"{left} is not divisible by {right}")
    quotient = left // right
    tens, ones = quotient // 10 * 10, quotient % 10
    if quotient <= 12 or not ones:
        return f"{left}/{right}={quotient}"
    return f"{left}/{right}={tens * right}/{right}+{ones * right}/{right}={add(tens, ones)}"


def _top_place(number: int) -> int:
    """``_top_place(347)`` -> 300, and 0 of 0."""
    place: int = 10 ** (len(str(number)) - 1)
    return number // place * place


def _join(terms: Sequence[int]) -> str:
    return "+".join(str(term) for term in terms)
