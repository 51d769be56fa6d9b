"""Chooses the CPU threads of each step: at most one per core, fewer for small steps."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.crowding import Crowding

# Multiply-adds per thread below which threads wait longer than they compute. One block of 32 tokens of the bundled
# student has 4.2e7 and gets one thread; two such blocks get two.
WORK_PER_THREAD = 4.0e7
OMP_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Threads:
    """Sets the CPU threads of this process: the maximum at first, and fewer for small steps.

    If the user set a number, by ``options.threads`` or for OpenMP, every step uses it. Ranks divide the cores.

    Args:
        options: the engine's options.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._crowding = Crowding()
        self._ranks = options.tensor_parallel_size
        self.fixed = options.threads is not None or any(os.environ.get(name) for name in OMP_THREADS)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        elif not self.fixed:
            cores = min(torch.get_num_threads(), free_cores())  # torch's own limit is the number of cores.
            torch.set_num_threads(max(1, cores // options.tensor_parallel_size))

    @property
    def most(self) -> int:
        """Most threads per step."""
        return torch.get_num_threads()

    @contextmanager
    def worth(self, multiply_adds: float) -> Iterator[None]:
        """A context with as many threads as suit this rank's share of ``multiply_adds``.

        Uses fewer if other processes need the cores.
        """
        most = self.most
        wanted = most if self.fixed else min(most, worth_threads(multiply_adds / self._ranks))
        if wanted > 1 and not self.fixed:
            wanted = self._crowding.limited(wanted)
        if wanted == most:
            yield
            return
        torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(most)


def worth_threads(multiply_adds: float) -> int:
    """Threads for that much work: a power of two, since OpenMP restarts threads whenever the number changes."""
    return 1 << max(0, math.floor(math.log2(max(1.0, multiply_adds / WORK_PER_THREAD))))


def free_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and control group."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU limit of this process's control groups, in cores; ``None`` without a limit.

    Args:
        groups: the kernel's list of the process's groups.
        root: where control groups (version 1 or 2) are mounted.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, _, named = line.partition(":")
        controllers, separator, path = named.partition(":")
        if not separator or (controllers and "cpu" not in controllers.split(",")):
            continue
        top = root / controllers if controllers else root
        # In a container the path may be the host's, and the mount shows only its end.
        inner = top / path.lstrip("/")
        quotas += [_quota(group) for group in (inner, *inner.parents) if group.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """CPU limit of one group, in cores: ``cpu.max`` of version 2, else the two files of version 1."""
    try:
        if (file := group / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # No such file, or "max".
        return None
