"""Data parallelism on CPU cores: one single-threaded process per core, gradients averaged once per step.

Threads of one process synchronize in every operator and stall whenever another program takes a core; processes
synchronize once per step.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from multiprocessing import forkserver
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessException, start_processes

from cdlm.model.config import CheckpointError
from cdlm.training.errors import TrainingError

_REASON = "reason"
# Optimizers import the compiler, which takes as long as torch itself.
_IMPORTED_LATER = "torch._dynamo"


def launch(main: Callable[..., None], workers: int, *arguments: object) -> None:
    """Runs ``main(*arguments)`` in ``workers`` processes that form a gloo group; in this process if ``workers`` is 1.

    Raises:
        TrainingError: a worker raised it or ``CheckpointError``.
    """
    if workers == 1:
        try:
            main(*arguments)
        except CheckpointError as error:
            raise TrainingError(str(error)) from error
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        given = (workers, directory, main, arguments)
        try:
            start_processes(  # type: ignore[no-untyped-call]
                _worker, args=given, nprocs=workers, start_method=_start_method(main)
            )
        except ProcessException:
            # The other workers fail because one has left: report the first one's reason.
            reason = directory / _REASON
            if reason.exists():
                raise TrainingError(reason.read_text()) from None
            raise


def _start_method(main: Callable[..., None]) -> str:
    """How multiprocessing starts workers: on Linux as forks of a process that has imported what they need, and waits.

    Elsewhere libraries of the system do not survive a fork.
    """
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.set_forkserver_preload([__name__, main.__module__, _IMPORTED_LATER])
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # It would import from the working directory.
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONSAFEPATH"]
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before
    return "forkserver"


def _worker(rank: int, workers: int, directory: Path, main: Callable[..., None], arguments: tuple[object, ...]) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    meeting = (directory / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    try:
        main(*arguments)
    except (TrainingError, CheckpointError) as error:
        (directory / _REASON).write_text(str(error))
        raise
    finally:
        dist.destroy_process_group()


def _leave_with_parent() -> None:
    """Ends this worker when its parent process ends, even if killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def rank() -> int:
    """This process's rank; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the group; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Waits for the whole group."""
    if dist.is_initialized():
        dist.barrier()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the group, in one all-reduce."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
