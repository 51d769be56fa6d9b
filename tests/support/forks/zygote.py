"""A process that has imported what servers and engines import, and forks itself for each one that is started.

The imports are most of a start. A forked process is a real one: its own standard streams, environment, directory,
arguments and signals; its parent is the process that asked. No thread runs at a fork, so that no lock is held.
"""

import atexit
import contextlib
import importlib
import json
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

import setproctitle

from cdlm import garbage
from tests.support.forks import script, starts

NAME = "zygote"
# What ``cdlm serve``, an engine and a rank import, at once or later.
_IMPORTED = (
    "cdlm.cli.main", "cdlm.cli.serve", "cdlm.server.run", "cdlm.server.command_line", "cdlm.model.tokens.tokenizer",
    "cdlm.scheduler.process.server", "cdlm.scheduler.ranks.rank",
)  # fmt: skip
# A command starts servers and engines, an engine its ranks.
_STARTING = (script.MODULE, "cdlm.cli.main", "cdlm.scheduler.process.server")


def fork_for_each(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Forks for each start that is asked for; returns in the new process, with what was asked and its descriptors.

    The process that asks adopts orphans meanwhile: the new one is forked twice, and its first parent exits before it
    goes on. This process exits when nobody can ask any more.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, starts.LARGEST, starts.MOST_DESCRIPTORS)
        if not message:
            os._exit(0)
        assert len(os.listdir("/proc/self/task")) == 1, "a thread runs, which a fork would lose"
        held, hold = os.pipe()  # The new process waits until all others have closed the writing end.
        told, tell = os.pipe()
        first_parent = os.fork()
        if not first_parent:
            new = os.fork()
            if new:
                os.write(tell, str(new).encode())
                os._exit(0)
            os.close(hold)
            os.read(held, 1)
            return json.loads(message), descriptors
        os.waitpid(first_parent, 0)
        asked.send(os.read(told, 32))
        for descriptor in (held, hold, told, tell, *descriptors):
            os.close(descriptor)


def place(descriptors: list[int], numbers: list[int]) -> None:
    """Gives descriptors these numbers, and closes all others."""
    above = max(*numbers, *descriptors) + 1
    high = [os.dup2(descriptor, above + index) for index, descriptor in enumerate(descriptors)]
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number)
    for opened in map(int, os.listdir("/proc/self/fd")):
        if opened not in numbers:
            with contextlib.suppress(OSError):  # That of the listing is closed already.
                os.close(opened)


def become(asked: dict[str, Any], descriptors: list[int]) -> tuple[str, list[str]]:
    """Makes this process what was asked for; returns the module to run and its arguments."""
    place(descriptors, asked["numbers"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    os.chdir(asked["directory"])
    name_it(Path(sys.executable).name)
    tempfile.tempdir = None  # An import may have found one.
    return asked["module"], asked["arguments"]


def attend(connection: socket.socket, variables: dict[str, str]) -> tuple[str, list[str]]:
    """Waits to be forked; returns what to run. What starts processes of its own gets a zygote of its own for them."""
    module, arguments = become(*fork_for_each(connection))
    while module in _STARTING:
        its, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            its.close()
            fork_from(starts.Zygote(mine, variables))
            break
        name_it(NAME)
        nothing = os.open(os.devnull, os.O_RDWR)
        mine.detach()  # What is collected later would close a descriptor that has got its number by then.
        place([nothing, nothing, nothing, its.detach()], [0, 1, 2, 3])
        module, arguments = become(*fork_for_each(socket.socket(fileno=3)))
    return module, arguments


def fork_from(zygote: starts.Zygote) -> None:
    """From now on this process forks what it starts from a zygote that is there."""
    starts.fork(lambda: zygote)


def name_it(name: str) -> None:
    """Names this process, so that tests can tell it from an engine."""
    with open("/proc/self/comm", "w") as file:
        file.write(name)


def run(module: str) -> NoReturn:
    """Runs a module's ``main`` and ends this process as the interpreter would, but leaves its modules as they are.

    To take apart what the zygote has imported takes longer than the start of a server, since a fork copies what it
    touches. A script, whose names live until the very end, and an error that nobody caught have the usual end.
    """
    try:
        status = importlib.import_module(module).main()
    except SystemExit as end:
        status = end.code
    if module != script.MODULE and isinstance(status, int | None):
        threading._shutdown()  # type: ignore[attr-defined]  # Waits for threads, as multiprocessing does in its forks.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit((status or 0) & 0xFF)
    sys.exit(status)


def main() -> NoReturn:
    """Entry point, with the number of a socket that starts are asked for at; each fork runs a module in it."""
    name_it(NAME)
    tests = socket.socket(fileno=int(sys.argv[1]))
    at_import = dict(os.environ)
    with garbage.ignored():  # Forks would copy what the collector touches.
        for each in _IMPORTED:
            importlib.import_module(each)
    setproctitle.getproctitle()  # It looks for its room in what the system gave, which a fork changes.
    tests.send(b"ready")
    module, sys.argv[1:] = attend(tests, at_import)
    run(module)
