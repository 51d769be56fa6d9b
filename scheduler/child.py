"""How this program's other processes are started: what they can import, and that their waiting threads sleep."""

import os
import sys
from pathlib import Path

# By which a user says how OpenMP's threads wait: in any runtime, in GNU's (PyTorch's on Linux), in LLVM's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# About 30 microseconds, the pause between two products of a small model. GNU's threads else spin for 3 milliseconds;
# where two of them share a core, because another process has theirs, every product takes that long.
_SHORT_SPIN = "3000"
_ROOT = str(Path(__file__).absolute().parents[2])  # Not resolved: in a checkout cdlm/scheduler is a link.
# This program need not be installed, or another version of it may be: its directory goes before those of packages.
_RUN = """
import runpy, sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
if root not in sys.path:
    sys.path.insert(next((at for at, path in enumerate(sys.path) if path.endswith("-packages")), len(sys.path)), root)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this program; nothing in the working directory can take a package's place."""
    return [sys.executable, "-P", "-c", _RUN, _ROOT, module, *arguments]


def environment() -> dict[str, str]:
    """The variables of such a process: the user's, and ``waiting_variables``.

    Empty parts of PYTHONPATH are left out: they would mean the working directory, and come from a variable that was
    not set.
    """
    variables = os.environ | waiting_variables()
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, variables["PYTHONPATH"].split(os.pathsep)))
    return variables


def waiting_variables() -> dict[str, str]:
    """What makes OpenMP's threads sleep while they wait, if torch is not loaded yet; nothing where a user said how."""
    if any(os.environ.get(name) for name in WAITING):
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": _SHORT_SPIN}
