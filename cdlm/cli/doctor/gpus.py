"""NVIDIA GPUs: those in the machine, and those that torch sees."""

import ctypes
import re
from pathlib import Path
from typing import Any

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # Vendor, and the class that display controllers begin with, on the PCI bus.


def gpus(root: Path = Path("/")) -> dict[str, Any]:
    """Describes the GPUs that the kernel reports below ``root``, and those that torch can use.

    ``on_bus`` counts GPUs on the PCI bus, ``device_files`` those that this process or container can open.
    """
    import torch

    available = torch.cuda.is_available()
    return {
        "on_bus": len(_on_bus(root / "sys/bus/pci/devices")),
        "device_files": len(list((root / "dev").glob("nvidia[0-9]*"))),
        "driver": _driver(root / "proc/driver/nvidia/version"),
        "torch_cuda": torch.version.cuda,
        "driver_cuda": _driver_cuda(),
        "seen_by_torch": [_properties(index) for index in range(torch.cuda.device_count())] if available else [],
    }


def gpu_warnings(seen: dict[str, Any] | None) -> list[str]:
    """Warnings that say why torch cannot use a GPU of this machine."""
    if seen is None or seen["seen_by_torch"] or not (seen["on_bus"] or seen["device_files"] or seen["driver"]):
        return []
    there = "this machine has an NVIDIA GPU"
    if seen["torch_cuda"] is None:
        return [f"{there}, but the installed torch is built without CUDA: PyPI's wheel for Linux has it"]
    if seen["driver"] is None:
        return [f"{there}, but its driver is not loaded: install NVIDIA's driver"]
    if not seen["device_files"]:
        return [f"{there}, but no /dev/nvidia0 is here: give it to the container (docker run --gpus all)"]
    return [
        f"{there}, but torch, which is built for CUDA {seen['torch_cuda']}, cannot use it: the driver "
        f"{seen['driver']} may be too old, or CUDA_VISIBLE_DEVICES hides the GPU"
    ]


def _on_bus(devices: Path) -> list[Path]:
    try:
        entries = sorted(devices.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if _text(entry / "vendor") == _NVIDIA and _text(entry / "class")[:4] == _DISPLAY]


def _driver(version: Path) -> str | None:
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _text(version))
    return found[1] if found else None


def _driver_cuda() -> str | None:
    """The newest CUDA version that the driver supports; ``None`` without its library."""
    number = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None


def _properties(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "total": total,
        "free": free,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
