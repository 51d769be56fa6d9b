"""File descriptors of connections: raises their limit, and logs rarely when they run out."""

import asyncio
import errno
import logging
import resource
import time
from typing import Any

logger = logging.getLogger(__name__)

_WANTED = 65536
_SILENCE_S = 10.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_limit() -> None:
    """Raises the soft limit of open files, often 1024, to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class AcceptErrors:
    """An asyncio exception handler that limits log lines about connections that cannot be accepted.

    The event loop reports each attempt, many per second: a client with enough connections could fill the log. Clients
    wait meanwhile; no connection is lost.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context:
            if time.monotonic() >= self._quiet_until:
                self._quiet_until = time.monotonic() + _SILENCE_S
                logger.error("connections wait, since none can be accepted: %s", error.strerror)
            return
        if isinstance(error, ValueError) and "_start_serving" in context.get("message", ""):
            return  # A late attempt, after the listener was closed.
        loop.default_exception_handler(context)
