"""Data parallelism on CPU cores: one single-threaded process per core, gradients averaged once per step.

Threads of one process synchronize in every operator and stall whenever another program takes a core; processes
synchronize once per step.
"""

import logging
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessException, spawn

from cdlm.model.config import CheckpointError
from cdlm.training.errors import TrainingError

_REASON = "reason"


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
        try:
            spawn(_worker, args=(workers, directory, main, arguments), nprocs=workers)  # type: ignore[no-untyped-call]
        except ProcessException:
            # The other workers fail because one has left: report the first one's reason.
            reason = directory / _REASON
            if reason.exists():
                raise TrainingError(reason.read_text()) from None
            raise


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
