"""System, processor, memory and disks of the machine. Sizes are in bytes."""

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cdlm.scheduler.child import WAITING

# Processor features by which torch and oneDNN choose kernels.
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *WAITING)
_CPUS = Path("/proc/cpuinfo")
SHARED_MEMORY = Path("/dev/shm")  # nosec B108 - nothing is written there
# NCCL needs some megabytes per channel; Docker's default for a container is 64 MB.
ENOUGH_SHARED_MEMORY = 2**30


def system() -> dict[str, Any]:
    """Python, kernel, C library, and the kind of container, if any."""
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "c_library": " ".join(platform.libc_ver()).strip() or None,
        "container": container(),
    }


def container(root: Path = Path("/")) -> str | None:
    """``kubernetes``, ``docker`` or ``podman``; ``None`` outside a container."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    for kind, mark in (("docker", ".dockerenv"), ("podman", "run/.containerenv")):
        if (root / mark).exists():
            return kind
    return None


def processor_name() -> str:
    """What the processor is called; its architecture where the system has no name for it."""
    names = [line.partition(":")[2].strip() for line in _lines(_CPUS) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor() -> dict[str, Any]:
    """Name, features, cores that this process may use, and torch's capability and threads."""
    import torch

    from cdlm.scheduler.steps.threads import cpu_quota, free_cores

    flags = set()
    for line in _lines(_CPUS):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return {
        "name": processor_name(),
        "architecture": platform.machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "cores": os.cpu_count(),
        "usable_cores": free_cores(),
        "quota": cpu_quota(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in THREAD_VARIABLES if os.environ.get(name)},
    }


def memory() -> dict[str, int]:
    """Total memory of the machine, and memory that this process can still use within its control group."""
    import torch

    from cdlm.model.device import free_memory

    return {
        "total": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "free": free_memory(torch.device("cpu")),
    }


def shared_memory(path: Path = SHARED_MEMORY) -> dict[str, int] | None:
    """Size of shared memory; ``None`` if there is none."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return {"total": usage.total, "free": usage.free}


def shared_memory_warnings(seen: dict[str, int] | None, ranks: int) -> list[str]:
    """A warning if shared memory is too small for ``ranks`` ranks."""
    free = 0 if seen is None else seen["free"]
    if ranks == 1 or free >= ENOUGH_SHARED_MEMORY:
        return []
    return [
        f"{SHARED_MEMORY} has {free} bytes free, and the {ranks} ranks of --tensor-parallel-size exchange data there "
        "on GPUs: give the container a gigabyte (docker run --shm-size=1g, shm_size in Compose, in Kubernetes an "
        "emptyDir of medium Memory at /dev/shm)"
    ]


def disks(model: str) -> dict[str, dict[str, Any]]:
    """Free space of the Hub's cache, the model's directory, and the temporary directory."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from cdlm.model.fetching.names import find_named

    named = find_named(model)
    directory = model if named is None else str(named.present() or model)
    found = {}
    for name, path in (("hub_cache", HF_HUB_CACHE), ("model", directory), ("temporary", tempfile.gettempdir())):
        place = Path(path).absolute()
        if name == "model" and not place.exists():
            continue  # It is not downloaded yet.
        usage = shutil.disk_usage(next(part for part in (place, *place.parents) if part.exists()))
        found[name] = {"path": str(path), "total": usage.total, "free": usage.free}
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
