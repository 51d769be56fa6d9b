"""Where a measurement was made: processor, memory, versions, commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from cdlm.cli.doctor.machine import processor_name
from cdlm.cli.doctor.packages import installed_version

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "tokenizers", "httpx", "uvicorn")


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory in GiB, GPU, versions."""
    facts: dict[str, Any] = {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed_version(name))},
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def commit() -> str:
    """The commit of the code, with ``+changes`` where tracked files differ from it."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def load_average() -> float:
    """Of the last minute: how busy the machine was before a measurement began."""
    return round(os.getloadavg()[0], 2)


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()
