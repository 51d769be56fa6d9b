"""Has processes of this project that a test starts forked from a zygote, where that is the same as to spawn them."""

import atexit
import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from cdlm.scheduler import child

POSSIBLE = sys.platform == "linux" and not torch.cuda.is_available()  # CUDA and forks do not go together.
LARGEST = 1 << 20  # Bytes of a message.
MOST_DESCRIPTORS = 16
_PR_SET_CHILD_SUBREAPER = 36  # Of prctl(2).
# Variables that nothing reads while it is imported, so that they may differ between a zygote and its forks.
# numpy's own threads compute nothing here. Of XDG_CACHE_HOME only what fetches from the Hub makes something, and tests
# of that spawn. The last ones but those of OpenMP say which of several processes one is.
_READ_LATER = (
    "CDLM_", "GLOO_", "OTEL_", "PYTEST_", "TMPDIR", "XDG_RUNTIME_DIR", "OPENBLAS_NUM_THREADS", "XDG_CACHE_HOME",
    "PIP_", "MASTER_", "WORLD_SIZE", "RANK", "LOCAL_",
    *child.WAITING,
)  # fmt: skip
_AS_USUAL = (True, None, None, None, -1, False, -1)  # The last arguments of ``Popen._execute_child``.
_spawn = subprocess.Popen._execute_child  # type: ignore[attr-defined]


class Zygote:
    """Asks a zygote for processes.

    Args:
        connection: leads to it.
        variables: its environment.
    """

    def __init__(self, connection: socket.socket, variables: dict[str, str]) -> None:
        self.connection = connection
        self.variables = variables
        self._lock = threading.Lock()

    def fits(self, variables: dict[str, str]) -> bool:
        """Whether the imports would have been the same with these variables."""
        early, own = (
            {name: value for name, value in each.items() if not name.startswith(_READ_LATER)}
            for each in (variables, self.variables)
        )
        # How OpenMP waits is set for engines, which compute, and not for servers.
        waiting = {name: variables[name] for name in child.WAITING if name in variables}
        return early == own and waiting.items() <= self.variables.items()

    def start(self, asked: dict[str, Any], descriptors: list[int]) -> int:
        """Returns the id of a new process, a child of this one."""
        with self._lock, _adopting():
            socket.send_fds(self.connection, [json.dumps(asked).encode()], descriptors)
            return int(self.connection.recv(LARGEST))


@cache
def tests_zygote() -> Zygote:
    """The zygote of this test process; it ends when this process does."""
    its, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = child.command("tests.support.forks.zygote", str(its.fileno()))
        variables = child.environment()
        descriptors = (its.fileno(),)
        nothing = subprocess.DEVNULL
        alone = variables | {"OPENBLAS_NUM_THREADS": "1"}  # numpy's library starts its threads when it is loaded.
        with spawned():
            process = subprocess.Popen(command, env=alone, pass_fds=descriptors, stdin=nothing, stdout=nothing)
    assert mine.recv(LARGEST) == b"ready"
    atexit.register(_end, process, mine)
    return Zygote(mine, variables)


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    process.wait()


def spawn() -> None:
    """From now on processes are spawned, as outside of tests."""
    subprocess.Popen._execute_child = _spawn  # type: ignore[attr-defined]


@contextlib.contextmanager
def spawned() -> Iterator[None]:
    """Meanwhile processes are spawned."""
    before = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    spawn()
    try:
        yield
    finally:
        subprocess.Popen._execute_child = before  # type: ignore[attr-defined]


def fork(zygote: Callable[[], Zygote]) -> None:
    """From now on processes of this project are forked from a zygote, unless they are started in an unusual way.

    ``zygote`` is called when one is needed, and may start it then.
    """

    def execute(self: Any, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any, cwd: Any,
                env: Any, startupinfo: Any, creationflags: int, shell: bool, *rest: Any) -> None:  # fmt: skip
        pipes = stdin, _, _, stdout, _, stderr = rest[:6]
        usual = (executable, preexec_fn, close_fds, shell, rest[6:]) == (None, None, True, False, _AS_USUAL)
        run = module_of(args) if usual else None
        variables = dict(os.environ if env is None else env)
        if run is None or not zygote().fits(variables):
            command = (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            _spawn(self, *command, *rest)
            return
        asked = {"module": run[0], "arguments": run[1], "variables": variables, "numbers": [0, 1, 2, *pass_fds]}
        streams = [own if pipe == -1 else pipe for own, pipe in enumerate((stdin, stdout, stderr))]
        self.pid = zygote().start(asked | {"directory": os.fspath(cwd or os.getcwd())}, [*streams, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)

    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


def module_of(args: Any) -> tuple[str, list[str]] | None:
    """The module of this project that a command runs, and its arguments; ``None`` for other commands."""
    words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
    if words[:3] == [sys.executable, "-m", "cdlm"]:
        return "cdlm.cli.main", words[3:]
    start = child.command("")[:-1]
    return (words[len(start)], words[len(start) + 1 :]) if words[: len(start)] == start else None


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Makes orphaned descendants children of this process."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
