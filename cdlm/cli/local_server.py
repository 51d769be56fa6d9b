"""Runs a temporary server for a command, so that a checkpoint can be measured without a second terminal."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import httpx

from cdlm.model.config import CheckpointError
from cdlm.model.fetching.names import find_named
from cdlm.scheduler import child


class LocalServerError(RuntimeError):
    """The server did not start; the message contains the end of its log."""


@contextlib.contextmanager
def server_address(url: str, model: Path | None, adapter: Path | None = None) -> Iterator[str]:
    """A context that yields ``url``, or with ``model`` the URL of a temporary server of it and ``adapter``."""
    if model is None:
        if adapter is not None:
            raise LocalServerError(f"--adapter {adapter} needs --model, the checkpoint that it was trained on")
        yield url
    else:
        with local_server(model, adapter) as address:
            yield address


@contextlib.contextmanager
def local_server(
    model: Path,
    adapter: Path | None = None,
    start_timeout_s: float = 300.0,
    flags: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Serves ``model``, with ``adapter`` merged into it, on a free port; yields its URL and stops it at the end.

    ``flags`` are further flags of ``cdlm serve``; ``variables`` is its environment, by default this process's.

    A model that has a name is fetched first, since the server's log, and what it says of a download, is not shown.

    Raises:
        LocalServerError: the model could not be fetched, the server exited, or was not ready within
            ``start_timeout_s`` seconds.
    """
    try:
        if named := find_named(str(model)):
            named.fetch()
    except CheckpointError as error:
        raise LocalServerError(str(error)) from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--model", str(model), "--port", str(port), "--log-level", "warning", *flags]
    if adapter is not None:
        flags += ["--adapter", str(adapter)]
    with tempfile.TemporaryFile() as log:  # A pipe would fill up.
        process = subprocess.Popen(child.command("cdlm.cli.main", "serve", *flags), stderr=log, env=variables)
        try:
            _wait_ready(process, f"http://127.0.0.1:{port}", start_timeout_s, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(process, timeout_s=10)


def stop(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Terminates a process; kills it if it does not exit within ``timeout_s`` seconds."""
    process.terminate()
    try:
        process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", url: str, timeout_s: float, log: IO[bytes]) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                log.seek(0)
                end = log.read().decode(errors="replace")[-2000:]
                raise LocalServerError(f"the server exited with {process.returncode}:\n{end}")
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/readyz").status_code == 200:
                    return
            time.sleep(0.2)
    raise LocalServerError(f"the server was not ready within {timeout_s:.0f} s")
