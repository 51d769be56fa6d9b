"""Where the model runs and in which precision."""

import ctypes
import os
from pathlib import Path

import torch

from cdlm.model.config import CheckpointError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# glibc's parameter numbers for mallopt (malloc.h), and the value of both in bytes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT_BYTES = -1, -3, 2**30


def resolve_device(name: str) -> torch.device:
    """Returns the device called ``name``: ``auto`` is CUDA if there is a GPU, else the CPU; other names are torch's.

    Raises:
        CheckpointError: the name is unknown, or names CUDA on a machine without it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"device {name!r} is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {name!r}: this machine has no usable NVIDIA GPU")
    return device


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has units for bfloat16: products of a few rows then take the time of one."""
    known = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(known) and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def resolve_dtype(name: str, device: torch.device, *, drafts: bool = False) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU, float16 on one that has no bfloat16, and float32 on a CPU.

    With ``drafts`` it is bfloat16 on a CPU that has units for it, since drafts need rows that cost little.

    Raises:
        CheckpointError: an unknown name, or a type that the device does not compute in.
    """
    if name not in ("auto", *DTYPES):
        raise CheckpointError(f"dtype {name!r} is not known; use auto, {', '.join(DTYPES)}")
    if device.type != "cuda":
        by_itself = "bfloat16" if drafts and multiplies_bfloat16() else "float32"
        return DTYPES[by_itself if name == "auto" else name]
    without = torch.cuda.get_device_capability(device) < (8, 0)
    if name == "bfloat16" and without:
        raise CheckpointError(
            f"dtype bfloat16: {torch.cuda.get_device_name(device)} does not compute in it; use float16"
        )
    if name == "auto":
        return torch.float16 if without else torch.bfloat16
    return DTYPES[name]


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device now; on a CPU, within the limit of the process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):  # Includes what the page cache can free.
            available = [int(line.split()[1]) * 1024]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0] != "max":
        available.append(max(0, int(limit[0]) - int(used[0])))
    return min(available)


def keep_freed_memory() -> None:
    """Makes malloc keep up to 1 GiB of freed memory for reuse (glibc only).

    By default glibc returns large blocks to the system at once. Getting them back page by page takes a third of the
    time of a matrix product of a few hundred rows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
