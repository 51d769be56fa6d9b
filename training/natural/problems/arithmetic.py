"""Sums written so that every written step is small: nothing has to be carried over more than one place at a time."""

from collections.abc import Callable, Sequence

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x // y,
}


def result_of(x: int, operator: str, y: int) -> int | None:
    """The result of ``x operator y``; ``None`` if it is negative or not whole."""
    if operator == "/" and (y == 0 or x % y):
        return None
    result = _OPERATIONS[operator](x, y)
    return result if result >= 0 else None


def worked(x: int, operator: str, y: int) -> str:
    """``x operator y``, the steps between, and the result: ``45 - 18 = 35 - 8 = 27``.

    Raises:
        ValueError: the result is negative or not whole.
    """
    result = result_of(x, operator, y)
    if result is None:
        raise ValueError(f"{x} {operator} {y} has no whole result of at least 0")
    between: Sequence[str] = {"+": _place_by_place, "-": _place_by_place, "*": _products, "/": _quotients}[operator](
        x, operator, y
    )
    return " = ".join((f"{x} {operator} {y}", *between, str(result)))


def _parts(number: int) -> list[int]:
    """345 -> [300, 40, 5]: the value of every digit that is not 0."""
    digits = str(number)
    return [int(digit) * 10 ** (len(digits) - 1 - place) for place, digit in enumerate(digits) if digit != "0"]


def _place_by_place(x: int, operator: str, y: int) -> list[str]:
    """The second number moves over one digit at a time, its largest first."""
    steps = []
    for part in _parts(y)[:-1]:
        x, y = _OPERATIONS[operator](x, part), y - part
        steps.append(f"{x} {operator} {y}")
    return steps


def _products(x: int, _operator: str, y: int) -> list[str]:
    """The longer factor digit by digit; two factors of two digits with the tens of the second first."""
    if min(x, y) <= 12 and max(x, y) <= 12:
        return []
    long, short = max(x, y), min(x, y)
    if len(_parts(long)) == 1 or short in (0, 1, 10, 100):
        return []
    if short > 12 and len(_parts(short)) > 1:
        return _sum([long * part for part in _parts(short)])
    return _sum([part * short for part in _parts(long)])


def _quotients(x: int, _operator: str, y: int) -> list[str]:
    """Tens (or hundreds) of the divisor first: 96 / 4 = 80 / 4 + 16 / 4 = 20 + 4."""
    if x // y <= 12 or len(_parts(x // y)) == 1:
        return []
    parts = _parts(x // y)
    return [" + ".join(f"{part * y} / {y}" for part in parts), *_sum(parts)]


def _sum(parts: list[int]) -> list[str]:
    """180 + 40 + 6, then 220 + 6: two numbers are left before the result."""
    steps = [" + ".join(map(str, parts))]
    while len(parts) > 2:
        parts = [parts[0] + parts[1], *parts[2:]]
        steps.append(" + ".join(map(str, parts)))
    return steps
