"""Where the sockets between the API process and an engine lie."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import zmq

# Where a directory with a short path may be made, which mkdtemp makes private: the kernel takes about a hundred bytes.
_BASES = ("/tmp", "/var/tmp", "/dev/shm")  # nosec B108
_NAMES = len("/cdlm-12345678/out")


@contextmanager
def socket_directory() -> Iterator[Path]:
    """A directory of this user's alone, for sockets ``in`` and ``out``; it is gone afterwards.

    It lies below TMPDIR if that is there, can be written to and has a short path, else where there is room.

    Raises:
        OSError: it can be made nowhere.
    """
    directory = _make()
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make() -> str:
    bases = [os.environ.get("XDG_RUNTIME_DIR"), *_BASES]
    with suppress(OSError):  # Nothing can be written to: neither TMPDIR nor what stands in for it.
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
