"""Isolates errors in the work of one request from other requests."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from cdlm.model.parallel.followers import LostRank

logger = logging.getLogger(__name__)


class LostDevice(RuntimeError):
    """The GPU answers every call with an error: nothing can be computed in this process any more."""


# After these nothing can be computed in this process any more.
FATAL = (LostRank, LostDevice, torch.AcceleratorError)

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
        _check_device(error)
        logger.exception("%s failed", what)
        return Fault(type(error).__name__)


def run_apart(
    what: str,
    items: list[Item],
    run: Callable[[list[Item]], Sequence[Outcome]],
    on_shortage: Callable[[], None] = lambda: None,
) -> list[Outcome | Fault]:
    """The results of ``run`` in the order of ``items``, with a ``Fault`` for every item that fails by itself too.

    Where a run of several raises, each half is run again, and so on; ``run`` must allow that. An item that always
    fails so costs the others a few shorter runs. ``on_shortage`` is called where the device had no memory for a run.
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
        _check_device(error)
        if isinstance(error, torch.OutOfMemoryError):
            on_shortage()
        logger.warning("%s of %d requests failed (%r); each half is tried by itself", what, len(items), error)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # What the larger run took may lie in pieces.
    half = len(items) // 2
    return run_apart(what, items[:half], run, on_shortage) + run_apart(what, items[half:], run, on_shortage)


def _check_device(error: Exception) -> None:
    """Raises ``LostDevice`` where an error was one after which the device no longer works."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize()
        except Exception as lost:
            raise LostDevice(f"the GPU is lost after {error!r}: {lost}") from error
