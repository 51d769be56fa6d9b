"""A program that writes what it finds of its own process: the same whether it was forked or spawned."""

import atexit
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import threading
from pathlib import Path


def _outlive() -> None:
    threading.main_thread().join()
    sys.stdout.write("a thread has ended\n")


def main() -> int:
    """Writes its portrait, and stops at a signal or exits with the status that its first argument says.

    A line of a thread and one of a function registered for the exit come after it.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    kept = ("Name", "Umask", "PPid", "Threads", "SigBlk", "SigIgn", "SigCgt", "CapEff", "NoNewPrivs")
    files = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]
    listed = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    numbers = [number for number in listed if os.path.lexists(f"/proc/self/fd/{number}")]
    portrait = {
        "arguments": sys.argv[1:],
        "status": [line for line in status if line.startswith(tuple(f"{name}:" for name in kept))],
        "variables": dict(os.environ),
        "directory": os.getcwd(),
        "files": files,
        "descriptors": numbers,
        "inheritable": [os.get_inheritable(number) for number in numbers],
        "group": [os.getpgrp() == os.getpgid(os.getppid()), os.getsid(0) == os.getsid(os.getppid())],
        "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
        "interpreter": [sys.executable, sys.flags.safe_path, sys.flags.utf8_mode, sys.path, sys.warnoptions],
        "streams": [(each.encoding, each.line_buffering) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "collector": [gc.isenabled(), gc.get_threshold()],
        "threads": threading.active_count(),
        "handlers": str(signal.getsignal(signal.SIGINT)),
        "temporary": tempfile.gettempdir(),
        "read": sys.stdin.read(),
    }
    sys.stdout.write(json.dumps(portrait) + "\n")
    sys.stdout.flush()
    if sys.argv[1] == "wait":
        signal.pause()
    atexit.register(sys.stdout.write, "the end\n")
    threading.Thread(target=_outlive).start()
    return int(sys.argv[1])
