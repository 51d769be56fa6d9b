"""Isolates errors in the work of one request from other requests."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from cdlm.model.parallel.followers import LostRank

logger = logging.getLogger(__name__)

# After these errors the process cannot compute anything.
FATAL = (LostRank, torch.AcceleratorError)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in place of a result."""

    reason: str


def attempt(what: str, work: Callable[[], Outcome]) -> Outcome | Fault:
    """Returns the result of ``work``; if it raises, logs the error with ``what`` and returns a ``Fault``."""
    try:
        return work()
    except FATAL:
        raise
    except Exception as error:
        logger.exception("%s failed", what)
        return Fault(type(error).__name__)


def run_apart(what: str, items: list[Item], run: Callable[[list[Item]], Sequence[Outcome]]) -> list[Outcome | Fault]:
    """Returns the results of ``run(items)`` in order, with a ``Fault`` for each item that fails by itself.

    If a run raises, both halves run again, recursively; ``run`` must be repeatable. A failing item costs the others a
    few shorter runs.
    """
    if not items:
        return []
    if len(items) == 1:
        return [attempt(what, lambda: run(items)[0])]
    try:
        return list(run(items))
    except FATAL:
        raise
    except Exception as error:
        logger.warning("%s of %d requests failed (%r); each half is tried by itself", what, len(items), error)
    half = len(items) // 2
    return run_apart(what, items[:half], run) + run_apart(what, items[half:], run)
