"""Arithmetic written out the way a pupil would: larger products are split into tens and ones."""


def add(*terms: int) -> str:
    """``add(14, 36)`` -> ``"14+36=50"``; more than two terms are summed pair by pair."""
    text = "+".join(str(term) for term in terms)
    if len(terms) > 2:
        text += "=" + "+".join(str(term) for term in (terms[0] + terms[1], *terms[2:]))
    return f"{text}={sum(terms)}" if len(terms) < 4 else f"{text}={_tail(terms)}"


def _tail(terms: tuple[int, ...]) -> str:
    running = terms[0] + terms[1] + terms[2]
    return "+".join(str(term) for term in (running, *terms[3:])) + f"={sum(terms)}"


def sub(left: int, right: int) -> str:
    """``sub(50, 8)`` -> ``"50-8=42"``."""
    return f"{left}-{right}={left - right}"


def mul(left: int, right: int) -> str:
    """``mul(24, 7)`` -> ``"24*7=140+28=168"``; products inside the times table are stated directly."""
    text = f"{left}*{right}="
    big, small = (left, right) if left >= right else (right, left)
    tens, ones = big // 10 * 10, big % 10
    if big > 10 and ones and small > 1 and small != 10:
        text += f"{tens * small}+{ones * small}="
    return text + str(left * right)


def div(left: int, right: int) -> str:
    """``div(84, 4)`` -> ``"84/4=21"``; the division is exact.

    Raises:
        ValueError: ``right`` does not divide ``left``.
    """
    if left % right:
        raise ValueError(f"{left} is not divisible by {right}")
    return f"{left}/{right}={left // right}"
