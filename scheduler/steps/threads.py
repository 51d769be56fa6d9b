"""CPU threads of a process that computes: no more than its cores, and for a small step fewer."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from cdlm.scheduler.options import EngineOptions
from cdlm.scheduler.steps.crowding import Crowding

# Multiply-adds that are worth a thread: with fewer it waits for the others longer than it computes. One block of 32
# tokens of the bundled student is 4.2e7 in all, and gets one thread; two such blocks get two.
WORK_PER_THREAD = 4.0e7
OMP_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Threads:
    """The threads of this process: as many as it may have, set at once, and fewer for a step that is not worth them.

    What a user set, by ``options.threads`` or for OpenMP, is the number of every step. Ranks share the cores.

    Args:
        options: the engine's.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._crowding = Crowding()
        self._ranks = options.tensor_parallel_size
        self.fixed = options.threads is not None or any(os.environ.get(name) for name in OMP_THREADS)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        elif not self.fixed:
            cores = min(torch.get_num_threads(), free_cores())  # Those of torch are not more than there are.
            torch.set_num_threads(max(1, cores // options.tensor_parallel_size))

    @property
    def most(self) -> int:
        """Threads of the largest steps."""
        return torch.get_num_threads()

    @contextmanager
    def worth(self, multiply_adds: float) -> Iterator[None]:
        """For the length of the block as many threads as a rank's share of so much work is worth.

        Fewer, where other processes need the cores.
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
    """A power of two, so that the number seldom changes: OpenMP ends threads and starts them when it does."""
    return 1 << max(0, math.floor(math.log2(max(1.0, multiply_adds / WORK_PER_THREAD))))


def free_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group pays for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def cpu_quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores' worth of time that the control groups of this process may use; ``None`` without a limit.

    Args:
        groups: the process's groups, as the kernel lists them.
        root: where the control groups are mounted, version 2 or those of version 1.
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
        # In a container the path may be one of the host, of which the mount shows the end alone.
        inner = top / path.lstrip("/")
        quotas += [_quota(group) for group in (inner, *inner.parents) if group.is_relative_to(top)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(group: Path) -> float | None:
    """That of one group: ``cpu.max`` of version 2, else the two files of version 1."""
    try:
        if (file := group / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # No such file, or "max".
        return None
