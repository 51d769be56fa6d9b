"""Command line and environment of child processes: what they can import, and how their OpenMP threads wait."""

import ctypes
import os
import signal
import sys
from pathlib import Path

# Variables by which users set how OpenMP threads wait: in any runtime, GNU's (PyTorch's on Linux), LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# About 30 microseconds, the pause between two products of a small model. By default GNU's threads spin for 3
# milliseconds; if two of them share a core, because another process uses theirs, each product takes that long.
_SHORT_SPIN = "3000"
_PR_SET_PDEATHSIG = 1  # Of prctl(2).
_ROOT = str(Path(__file__).absolute().parents[2])  # Not resolved: in a checkout cdlm/scheduler is a link.
# This program need not be installed, or another version of it may be: its directory goes before those of packages.
_RUN = """
import importlib, sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
if root not in sys.path:
    sys.path.insert(next((at for at, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path)), root)
from cdlm import garbage
with garbage.ignored():
    main = importlib.import_module(module).main
sys.exit(main())
"""


def command(module: str, *arguments: str) -> list[str]:
    """The command that calls ``main`` of a module; the working directory is not on its import path."""
    return [sys.executable, "-P", "-c", _RUN, _ROOT, module, *arguments]


def environment() -> dict[str, str]:
    """The child's environment: this process's variables and ``waiting_variables``.

    Drops empty parts of PYTHONPATH, which would mean the working directory; they come from unset variables.
    """
    variables = os.environ | waiting_variables()
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, variables["PYTHONPATH"].split(os.pathsep)))
    return variables


def waiting_variables() -> dict[str, str]:
    """Variables that make waiting OpenMP threads sleep soon; empty if the user set one of ``WAITING``."""
    if any(os.environ.get(name) for name in WAITING):
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": _SHORT_SPIN}


def die_with(parent: int) -> None:
    """Has the system kill this process once the thread that started it has ended, whatever this process is doing.

    Linux only; elsewhere nothing happens. ``parent`` is the id of the parent: it may have ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
