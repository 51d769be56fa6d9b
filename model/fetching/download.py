"""Downloads one file whose size and SHA-256 are known; continues a download that was cut off."""

import logging
from pathlib import Path

import httpx

from cdlm.model.config import CheckpointError
from cdlm.model.fetching.index import shown
from cdlm.model.files import digest
from cdlm.model.progress import Progress

logger = logging.getLogger(__name__)

# Of connections that end early; each attempt continues where the last one ended.
ATTEMPTS = 3


def download(client: httpx.Client, address: str, path: Path, size: int, sha256: str) -> None:
    """Downloads ``address`` into ``path``; what is there already is taken as the beginning of the file.

    Raises:
        CheckpointError: what is served differs from what is expected; ``path`` is then removed.
        httpx.HTTPError: the server cannot be reached, refuses, or ends every attempt early.
        OSError: ``path`` cannot be written.
    """
    continued = path.exists()
    for attempt in range(1, ATTEMPTS + 1):
        before = _length(path)
        try:
            _append(client, address, path, size)
        except httpx.TransportError as error:
            if attempt == ATTEMPTS or _length(path) <= before:
                raise
            logger.info("%s: %s; continuing", shown(address), error or type(error).__name__)
        else:
            break
    if digest(path) == sha256:
        return
    path.unlink()
    if not continued:
        raise CheckpointError(f"{shown(address)} has another SHA-256 than {sha256}")
    download(client, address, path, size, sha256)  # The beginning was of something else.


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append(client: httpx.Client, address: str, path: Path, size: int) -> None:
    """Requests what ``path`` lacks of the ``size`` bytes, and appends it."""
    have = _length(path)
    if have == size:
        return
    if have > size:
        have = 0
    # Not compressed on the way: sizes and offsets would be of something else.
    headers = {"accept-encoding": "identity", **({"range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", address, headers=headers) as response:
        if not have or response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            response.raise_for_status()
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            with path.open("ab" if have else "wb") as file, Progress(path.stem, size, have) as progress:
                for part in response.iter_raw():
                    file.write(part)
                    progress.add(len(part), f"from {response.url.host}")
                    if progress.done > size:
                        break
    if _length(path) != size:
        path.unlink()
        raise CheckpointError(f"{shown(address)} has another size than {size} bytes")
