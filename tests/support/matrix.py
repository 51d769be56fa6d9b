"""Samples of test matrices that cover every value, or every pair of values; other cases run with ``make test-all``."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest

Case = tuple[Any, ...]


def sample(*axes: Sequence[Any], strength: int = 2) -> list[tuple[int, ...]]:
    """Indices of a small set of cases in which any ``strength`` axes have all combinations of their values."""
    cases = list(product(*(range(len(axis)) for axis in axes)))
    strength = min(strength, len(axes))

    def parts(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(case), strength))

    missing = set[tuple[tuple[int, int], ...]]().union(*map(parts, cases))
    chosen: list[tuple[int, ...]] = []
    while missing:
        # Of cases that add as much, the one that differs the most from the last, so that values alternate.
        last = chosen[-1] if chosen else cases[0]
        best = max(cases, key=lambda case: (len(parts(case) & missing), sum(map(int.__ne__, case, last))))
        missing -= parts(best)
        chosen.append(best)
    return chosen


def matrix(*axes: Sequence[Any], strength: int = 2, first: Sequence[Any] | None = None) -> list[Any]:
    """All cases as pytest parameters; those outside the sample have the marker ``whole``.

    The sample may be restricted to some values of the first axis.
    """
    chosen = {places for places in sample(*axes, strength=strength) if first is None or axes[0][places[0]] in first}
    return [
        pytest.param(
            *(axis[place] for axis, place in zip(axes, places, strict=True)),
            marks=[] if places in chosen else [pytest.mark.whole],
        )
        for places in product(*(range(len(axis)) for axis in axes))
    ]


def some(values: Sequence[Any], every: int, first: int = 0) -> list[Any]:
    """All values as pytest parameters; all but every ``every``-th have the marker ``whole``.

    A tuple has a value for each of several names.
    """
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[] if place % every == first else [pytest.mark.whole],
        )
        for place, value in enumerate(values)
    ]
