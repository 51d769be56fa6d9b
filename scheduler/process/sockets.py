"""The directory of the sockets between the API process and an engine."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq

# Short fallbacks for mkdtemp: the kernel limits socket paths to about a hundred bytes.
_BASES = ("/tmp", "/var/tmp", "/dev/shm")  # nosec B108
_NAMES = len("/cdlm-12345678/out")


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Creates a private directory for the sockets ``in`` and ``out``, and removes it at the end.

    It is in TMPDIR if that is writable and short enough, else in one of ``_BASES``.

    Raises:
        OSError: no directory can be created.
    """
    directory = _make()
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make() -> str:
    bases = [os.environ.get("XDG_RUNTIME_DIR"), *_BASES]
    with suppress(OSError):  # gettempdir fails if no directory is writable.
        bases.insert(0, tempfile.gettempdir())
    reason: OSError | None = None
    for base in filter(None, bases):
        if len(os.fsencode(base)) + _NAMES > zmq.IPC_PATH_MAX_LEN:
            continue
        try:
            return tempfile.mkdtemp(prefix="cdlm-", dir=base)
        except OSError as error:
            reason = reason or error
    raise OSError(f"no directory for its sockets can be made: {reason}")
