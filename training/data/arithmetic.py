"""Arithmetic written out the way a pupil would: every ``=`` does one thing a table or one carry can do.

Sums and differences move one place at a time, products are split by place, quotients into tens and ones.
"""


def add(*terms: int) -> str:
    """``add(47, 38)`` -> ``"47+38=77+8=85"``: the second term moves into the first place by place."""
    text = _join(terms)
    while len(terms) > 1:
        first, second, *rest = terms
        top = _top_place(second)
        terms = (first + top, *([second - top] if second > top else []), *rest)
        text += "=" + _join(terms)
    return text


def sub(left: int, right: int) -> str:
    """``sub(92, 38)`` -> ``"92-38=62-8=54"``: the largest place goes first. ``right`` is positive."""
    text = f"{left}-{right}"
    while right:
        top = _top_place(right)
        left, right = left - top, right - top
        text += f"={left}-{right}" if right else f"={left}"
    return text


def mul(left: int, right: int) -> str:
    """``mul(24, 7)`` -> ``"24*7=140+28=160+8=168"``; products inside the times table are stated directly."""
    big, small = max(left, right), min(left, right)
    parts = []
    rest = big
    while rest:
        top = _top_place(rest)
        parts.append(top * small)
        rest -= top
    if big <= 10 or small <= 1:
        return f"{left}*{right}={left * right}"
    return f"{left}*{right}={add(*parts)}"


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
    """``_top_place(347)`` -> 300."""
    place: int = 10 ** (len(str(number)) - 1)
    return number // place * place


def _join(terms: tuple[int, ...]) -> str:
    return "+".join(str(term) for term in terms)
