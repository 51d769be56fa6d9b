"""Collects all findings of ``cdlm doctor`` in one JSON object."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cdlm.cli.doctor.gpus import gpu_warnings, gpus
from cdlm.cli.doctor.machine import disks, memory, processor, shared_memory, shared_memory_warnings, system
from cdlm.cli.doctor.packages import packages
from cdlm.server.settings import ServerSettings


def examine(settings: ServerSettings) -> dict[str, Any]:
    """Examines the machine and the model of ``settings``; returns findings as JSON, sizes in bytes.

    ``problem`` says why the model cannot be served; ``None`` if no reason was found. A part that could not be examined
    is ``None``, and a warning says why.
    """
    found: dict[str, Any] = {}
    told: list[str] = []
    ranks = settings.tensor_parallel_size
    parts: dict[str, Callable[[], Any]] = {
        "system": system,
        "packages": packages,
        "processor": processor,
        "gpus": gpus,
        "memory": memory,
        "shared_memory": shared_memory,
        "disks": lambda: disks(settings.model),
    }
    with _quiet():
        for name, look in parts.items():
            found[name] = _look(name, look, told)
        told += gpu_warnings(found["gpus"]) + shared_memory_warnings(found["shared_memory"], ranks)
        model = _look("model", lambda: _model(settings), told)
    found["model"], found["flags"], found["problem"], more = model or (None, None, told[-1], [])
    found["warnings"] = told + more
    return found


def _model(settings: ServerSettings) -> Any:
    from cdlm.cli.doctor.model import examine_model  # Imports torch, which may be broken.

    return examine_model(settings)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context that silences logs and warnings of libraries: the report covers them."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _look(name: str, look: Callable[[], Any], told: list[str]) -> Any:
    """Calls ``look``; turns an error into ``None`` and a message, so that the other parts are still reported."""
    try:
        return look()
    except Exception as error:
        reason = " ".join(str(error).split())
        told.append(f"{name} could not be looked at: {type(error).__name__}: {reason}")
        return None
