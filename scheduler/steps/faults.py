"""Keeps an error in the work of one request from the others."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from cdlm.model.parallel.followers import LostRank

logger = logging.getLogger(__name__)

# After these nothing can be computed in this process any more.
FATAL = (LostRank, torch.AcceleratorError)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Fault:
    """What came instead of a result."""

    reason: str


def attempt(what: str, work: Callable[[], Outcome]) -> Outcome | Fault:
    """The result of ``work``, or its error, which is logged with ``what``; only ``FATAL`` errors are raised."""
    try:
        return work()
    except FATAL:
        raise
    except Exception as error:
        logger.exception("%s failed", what)
        return Fault(type(error).__name__)


def run_apart(what: str, items: list[Item], run: Callable[[list[Item]], Sequence[Outcome]]) -> list[Outcome | Fault]:
    """The results of ``run`` in the order of ``items``, with a ``Fault`` for every item that fails by itself too.

    Where a run of several raises, each half is run again, and so on; ``run`` must allow that. An item that always
    fails so costs the others a few shorter runs.
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
