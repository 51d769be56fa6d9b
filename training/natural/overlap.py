"""Finds exact and near duplicates of test questions, to keep them out of training data."""

import re
from collections.abc import Iterable, Set

WINDOW = 8  # Two questions overlap if they share this many consecutive words.


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of ``WINDOW`` words, lower case, all numbers alike; a shorter text is one run."""
    words = re.findall(r"[a-z]+|#", re.sub(r"\d+", "#", text.lower()))
    return {tuple(words[start : start + WINDOW]) for start in range(max(1, len(words) - WINDOW + 1))}


def all_shingles(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """The runs of all ``texts``."""
    return set().union(*map(shingles, texts))


def overlaps(text: str, measured: Set[tuple[str, ...]]) -> bool:
    """Whether ``text`` shares a run of words with ``measured``."""
    return not measured.isdisjoint(shingles(text))
